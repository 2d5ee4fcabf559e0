"""A small random open_clip folder, whose words are those of the drawn scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer
from seed_dist.models.vision import FrozenClip

import open_clip  # isort: skip  # after seed_dist.models, whose torchvision guard it needs

PLAIN = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 24, "head_width": 12}


def write_clip(folder: Path, vision: dict[str, Any], width: int, custom_text: bool) -> FrozenClip:
    text = {"context_length": 16, "vocab_size": len(build_tokenizer()), "width": 16, "heads": 2, "layers": 2}
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    model = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "x"}}
    config = {"model_cfg": model | {"custom_text": custom_text}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    return FrozenClip(str(folder))
