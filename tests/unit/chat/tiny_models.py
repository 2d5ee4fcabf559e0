"""A workspace of untrained models that belong together: a tokenizer, its painter, and a language model of its codes."""

from pathlib import Path

import torch

from seed_dist.models.language import SeedLanguageModel
from seed_dist.models.small_painter import build_painter, save_painter
from tests.languages import lora_options, save_language
from tests.unit.tokenize.tiny_tokenizer import CODEBOOK, LAYOUT, export

QUERIES, CODES = LAYOUT.queries, CODEBOOK.size


def workspace(folder: Path, family: str = "opt", **options: object) -> Path:
    """WORK with codebook/export and lora/export; adapters do something, where peft starts them at zero."""
    torch.manual_seed(0)
    save_painter(folder / "painter", build_painter(CODEBOOK.generation_width))
    export(folder / "work" / "codebook" / "export", painter=str(folder / "painter"))
    base = save_language(folder / "base", family)
    torch.manual_seed(3)
    language = SeedLanguageModel(str(base), CODES, lora_options(family, **options))
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    language.save_pretrained(folder / "work" / "lora" / "export", {})
    return folder / "work"
