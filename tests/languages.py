"""Small random language models in the layout of the real ones: OPT and LLaMA, with what is peculiar to each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seed_dist.config import LoraConfig
from seed_dist.glyphs.vocabulary import build_tokenizer
from seed_dist.models.language import SeedLanguageModel

from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM  # isort: skip  # after seed_dist.models

FAMILIES = ("opt", "llama")
VARIANTS = ("rows", "codebook")
TARGETS = {
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
SPARE = {"opt": 7, "llama": 0}  # rows of the base that its tokenizer does not fill; OPT-2.7B has 7
POSITIONS = 48
CODES, QUERIES, CODE_WIDTH = 12, 3, 4


def save_language(folder: Path, family: str) -> Path:
    """A transformers folder. OPT: tied embeddings, narrower than the layers, 50272-like vocabulary, `</s>` begins and
    ends, a pad token. LLaMA: untied, no pad token."""
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    if family == "opt":
        tokenizer.bos_token = tokenizer.eos_token
    else:
        tokenizer.pad_token = None
    special: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer) + SPARE[family], "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    if family == "opt":
        config = OPTConfig(ffn_dim=64, word_embed_proj_dim=24, dropout=0.0, init_std=0.2, **sizes, **special)
        model: Any = OPTForCausalLM(config)
    else:
        more: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.2}
        model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **more, **sizes, **special))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_options(family: str, variant: str = "rows", **more: Any) -> LoraConfig:
    options: dict[str, Any] = {"rank": 2, "dropout": 0.0, "max_tokens": 40, **more}
    from_codebook = variant == "rows"
    return LoraConfig(
        target_modules=TARGETS[family], image_embedding=variant, rows_from_codebook=from_codebook, **options
    )


def codebook() -> torch.Tensor:
    return torch.randn(CODES, CODE_WIDTH, generator=torch.Generator().manual_seed(2)) * 3 + 1


def language_model(folder: Path, family: str, variant: str = "rows", **options: Any) -> SeedLanguageModel:
    """Over `folder` (see `save_language`), in eval mode, with adapters that do something: peft starts them at zero."""
    torch.manual_seed(3)
    dtype = options.pop("dtype", torch.float32)
    model = SeedLanguageModel(str(folder), CODES, lora_options(family, variant, **options), codebook(), dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model.eval()
