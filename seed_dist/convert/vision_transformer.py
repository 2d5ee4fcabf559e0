"""LAVIS's `eva_vit_g.pth` -> a folder in the layout of transformers' Blip2VisionModel, for backbones.image_encoder.

Names and shapes are those of `lavis/models/eva_vit.py` of salesforce/LAVIS. Its attention has a bias for queries and
values and none for keys; transformers has one vector for all three, zero in the middle. Numbers keep their type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from seed_dist.convert.checkpoint_file import Checkpoint
from seed_dist.errors import MismatchError
from seed_dist.fsio import atomic_file, atomic_folder, sha256_file, write_json
from seed_dist.models.eva_vision import LAYER_NORM_EPS, MODEL_TYPE
from seed_dist.models.image_processor import CLIP_MEAN, CLIP_STD, PREPROCESSOR_NAME
from seed_dist.models.model_files import CONFIG_NAME, WEIGHTS_NAME, listed

# Of EVA-CLIP's 40 blocks BLIP-2 leaves out the last (`depth=39` of create_eva_vit_g).
BLOCKS = 39
HEAD_WIDTH = 88  # `num_heads=1408//88` there
_UNUSED = ("norm.", "fc_norm.", "head.", "mask_token")  # after the last block, or of the pre-training
_OUTSIDE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.projection", "mlp.fc1": "mlp.fc1",
          "mlp.fc2": "mlp.fc2"}  # fmt: skip
_QKV = ("attn.qkv.weight", "attn.q_bias", "attn.v_bias")


def is_vision_transformer(weights: Mapping[str, Tensor]) -> bool:
    return {"patch_embed.proj.weight", "cls_token"} <= weights.keys()


def convert_vision_transformer(checkpoint: Checkpoint, out: Path, heads: int | None) -> list[str]:
    """Write the folder `out`; the value is a summary, line by line. MismatchError names what is missing or unknown."""
    taken, left = _sorted_out(checkpoint.weights)
    blocks = 1 + max((int(name.split(".")[1]) for name in taken if name.startswith("blocks.")), default=-1)
    expected = {*_OUTSIDE, *(f"blocks.{i}.{name}" for i in range(blocks) for name in _block_names())}
    problems = [
        *listed("missing", sorted(expected - taken.keys())),
        *listed("unknown", sorted(taken.keys() - expected)),
    ]
    if problems or not blocks:
        action = "Give LAVIS's eva_vit_g.pth, or the vision model of a BLIP-2 from Hugging Face as it is."
        raise MismatchError(f"the set of weights in {checkpoint.path}", "; ".join(problems), "a ViT of BLIP-2", action)
    config = _config(taken, blocks, heads)
    with atomic_folder(out) as partial:
        with atomic_file(partial / WEIGHTS_NAME) as file:
            file.write(save(_renamed(taken, blocks), metadata={"format": "pt"}))
        write_json(partial / PREPROCESSOR_NAME, _preprocessor(config["image_size"]))
        origin = {"converted_from": [checkpoint.path.name, sha256_file(checkpoint.path)]}
        write_json(partial / CONFIG_NAME, {**config, "provenance": origin})
    return [
        "found     vision transformer of BLIP-2",
        *([f"left out  {len(left)} x {', '.join(sorted(left)[:4])} ...: behind block {BLOCKS}"] if left else []),
        "sizes     " + ", ".join(f"{name} {value}" for name, value in config.items() if isinstance(value, int)),
        "          heads: " + (f"{heads}, as told" if heads else "assumed, no tensor shows them; --heads N"),
        f"wrote     {out}: {len(taken)} tensors, numbers as they were",
        f"use       --set backbones.image_encoder={out}",
    ]


def _sorted_out(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in weights.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        if name.startswith(_UNUSED) or (block is not None and int(block[1]) >= BLOCKS):
            left.append(name)
        else:
            taken[name] = tensor
    return taken, left


def _block_names() -> list[str]:
    return [*_QKV, *(f"{part}.{kind}" for part in _BLOCK for kind in ("weight", "bias"))]


def _renamed(weights: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    state = {new: weights[old] for old, new in _OUTSIDE.items()}
    for i in range(blocks):
        old, new = f"blocks.{i}", f"encoder.layers.{i}"
        qkv, q_bias, v_bias = (weights[f"{old}.{name}"] for name in _QKV)
        state[f"{new}.self_attn.qkv.weight"] = qkv
        state[f"{new}.self_attn.qkv.bias"] = torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])
        for part, ours in _BLOCK.items():
            for kind in ("weight", "bias"):
                state[f"{new}.{ours}.{kind}"] = weights[f"{old}.{part}.{kind}"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _config(weights: Mapping[str, Tensor], blocks: int, heads: int | None) -> dict[str, Any]:
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["Blip2VisionModel"],
        "hidden_size": width,
        "intermediate_size": len(weights["blocks.0.mlp.fc1.weight"]),
        "num_hidden_layers": blocks,
        "num_attention_heads": heads or width // HEAD_WIDTH,
        "image_size": isqrt(weights["pos_embed"].shape[1] - 1) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
    }


def _preprocessor(size_px: int) -> dict[str, Any]:
    """As the BLIP-2 folders of Hugging Face have it."""
    size = {"height": size_px, "width": size_px}
    return {"size": size, "resample": 3, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}
