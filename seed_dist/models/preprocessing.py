"""How a picture becomes an encoder's input: squashed to a square, scaled to 0..1, normalised.

Size, interpolation, mean and standard deviation are those of the encoder's own folder. The geometry is SEED's: its
tokenizer squashes the whole picture (`blip_image_eval` of AILab-CVC/SEED, SEED_Tokenizer), where some folders crop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seed_dist.errors import DataError

PREPROCESSOR_NAME = "preprocessor_config.json"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# CLIP's, which every published encoder here shares (openai/CLIP, clip.py `_transform`).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """`size_px` is the side of the square; `interpolation` bicubic or bilinear."""

    size_px: int
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def details(self) -> dict[str, Any]:
        """For manifests."""
        return {
            "geometry": "squash",
            "size_px": self.size_px,
            "interpolation": self.interpolation,
            "mean": [round(value, 6) for value in self.mean],
            "std": [round(value, 6) for value in self.std],
        }

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture of any size and mode as float32 [3, size, size]."""
        size = (self.size_px, self.size_px)
        image = image.convert("RGB")
        if image.size != size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def read_preprocessing(folder: Path, size_px: int) -> Preprocessing:
    """What a transformers `preprocessor_config.json` says, CLIP's own where the folder has none.

    `size_px` is what the model takes; DataError where the file says another size or an unknown interpolation.
    """
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return Preprocessing(size_px)
    try:
        values = json.loads(path.read_text())
        stated = _side(values.get("crop_size") if values.get("do_center_crop") else values.get("size"))
        interpolation = Image.Resampling(values.get("resample", Image.Resampling.BICUBIC)).name.lower()
        mean, std = (tuple(map(float, values[name])) for name in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}). Copy or fetch it again.") from error
    if stated not in (None, size_px) or interpolation not in _RESAMPLING:
        raise DataError(
            f"{path} asks for {stated} px and {interpolation}, but the model takes {size_px} px, and bicubic or "
            "bilinear is needed. Use the file that belongs to the model."
        )
    return Preprocessing(size_px, interpolation, mean, std)


def _side(size: Any) -> int | None:
    """224, {"shortest_edge": 224} and {"height": 224, "width": 224} are all written."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else int(size)
