"""Checkpoint files of others, read as data and never as code: tensors under published names and what came with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import atomic_file
from seed_dist.models.model_files import listed

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # all of them fit into our float32 without loss
# Beginnings of names that are frozen networks of their own, and where they come from here.
_FROZEN = {
    "visual_encoder.": "the frozen ViT is loaded from its own assets, backbones.image_encoder",
    "clip_model.": "the frozen CLIP is loaded from its own assets, backbones.generation_encoder",
}
_REBUILT = re.compile(r"(^|\.)position_ids$")
_OURS = ("encoder.layers.", "qformer.encoder.layers.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors under published names, without those of frozen networks.

    `besides` are the other entries of a training checkpoint (optimizer, epoch, ...); `left_out` says of which tensors
    there were how many, and why they are not needed.
    """

    path: Path
    weights: dict[str, Tensor]
    besides: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """A .pt, .pth, .bin or .safetensors file: the tensors themselves, or a training checkpoint with them as `model`.

    Raises DataError for a file that is not there, damaged, or more than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is no file. Give a checkpoint ({', '.join(SUFFIXES)}), or a folder of save_pretrained."
        )
    content = _content(path)
    besides: tuple[str, ...] = ()
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        besides = tuple(str(name) for name in content if name != "model")
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise DataError(
            f"{path} holds a {type(content).__name__}{_some(content)}, but a mapping of names to tensors is needed, or "
            "a training checkpoint with one under 'model'. Give the file of weights."
        )
    no_tensors = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if no_tensors:
        raise DataError(
            f"{path} holds entries that are no tensors: {'; '.join(listed('entries', no_tensors))}. Needed are tensors "
            "alone, or a training checkpoint with them under 'model'. Give the file of weights."
        )
    return _sorted_out(path, {str(name): tensor for name, tensor in content.items()}, besides)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], entry: str | None = None) -> None:
    """Write tensors, whole or not at all, as the name's ending says; in a .pt below `entry` where one is given."""
    # Parts of one matrix share its memory: each is written as a tensor of its own.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_file(path) as file:
        if path.suffix == ".safetensors":
            file.write(save(own, metadata={"format": "pt"}))
        else:
            torch.save({entry: own} if entry else own, file)


def _content(path: Path) -> Any:
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'!r}, but one of {', '.join(SUFFIXES)} is needed. Only files of "
            "tensors are read; give one, under its right name."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except SafetensorError as error:
        raise DataError(f"{path} cannot be read as safetensors ({error}). Copy or download it again.") from error
    except Exception as error:  # a damaged or hostile file makes the reader raise nearly anything
        raise DataError(
            f"{path} cannot be read as tensors and plain values ({_cause(error)}), and nothing else is read: such a "
            "file may run code while it loads. If it is damaged, copy or download it again; if you trust where it "
            "comes from, load it there and save its tensors alone, best as .safetensors."
        ) from error


def _cause(error: Exception) -> str:
    """What torch found, without its advice to load the file in another way."""
    text = str(error)
    found = re.search(r"unsupported (?:global: )?\w+ [\w.]+", text, re.IGNORECASE)
    return (found[0] if found else text.strip().split("\n")[0] or type(error).__name__)[:160]


def _some(content: object) -> str:
    """The first names of a mapping, to recognise the file by."""
    if not isinstance(content, Mapping):
        return ""
    names = ", ".join(str(name) for name in list(content)[:8])
    return f" ({names})" if names else " without entries"


def _sorted_out(path: Path, tensors: Mapping[str, Tensor], besides: tuple[str, ...]) -> Checkpoint:
    if any(name.startswith(_OURS) for name in tensors):
        raise DataError(
            f"{path} holds weights under the names of this project, not under published ones. Give the folder that it "
            "is in, which is then written as a published file."
        )
    left_out: dict[str, int] = {}
    weights = {}
    for name, tensor in tensors.items():
        reason = _reason(name)
        if reason is None:
            weights[name] = tensor
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    wrong = [f"{name} {tensor.dtype}" for name, tensor in weights.items() if tensor.dtype not in _DTYPES]
    if wrong:
        raise MismatchError(
            f"the type of numbers in {path}",
            "; ".join(listed("of another type", wrong)),
            "float32, float16 or bfloat16",
            "Convert those tensors where the file was made.",
        )
    return Checkpoint(path, weights, besides, left_out)


def _reason(name: str) -> str | None:
    """Why a tensor is not taken over, or None when it is."""
    for beginning, reason in _FROZEN.items():
        if name.startswith(beginning):
            return f"{beginning}*: {reason}"
    return "position_ids: rebuilt by whoever needs them" if _REBUILT.search(name) else None
