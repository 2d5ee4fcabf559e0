"""Whatever made an image's codes: SEED's quantizer, or the pixel tokenizer that it is compared with."""

from __future__ import annotations

from pathlib import Path

from seed_dist.models.model_files import read_model_type
from seed_dist.models.pixel_tokenizer import PIXEL_MODEL_TYPE, PixelTokenizer
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.tokenizer import SeedQuantizer

Coder = SeedQuantizer | PixelTokenizer


def load_coder(export: Path) -> Coder:
    """The coder of a tokenizer's export; both kinds have a `config` and a `quantizer` with the code vectors."""
    if read_model_type(export) == PIXEL_MODEL_TYPE:
        return PixelTokenizer.from_pretrained(export)
    return SeedTokenizer.from_pretrained(export).quantizer
