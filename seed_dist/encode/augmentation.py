"""Augmented views: the crops and flips that the published tokenizer was trained with, drawn without any state.

`blip2_image_train` of LAVIS, as configured by SEED, is torchvision's RandomResizedCrop with a scale of 0.5 to 1,
bicubic, and a horizontal flip. Here the crop is cut out and flipped first, and squashed by each encoder's own
pre-processing, so that encoders of different sizes see the same part of the picture.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

_AREA = (0.5, 1.0)  # of the picture
_ASPECT = (3 / 4, 4 / 3)  # width / height, torchvision's own
_TRIES = 10  # torchvision's own


@dataclass(frozen=True)
class Crop:
    """View `view` (from 1) of any picture: a function of seed, the sample's key and the view alone."""

    seed: int
    view: int

    def details(self) -> dict[str, Any]:
        """For manifests."""
        return {
            "number": self.view,
            "seed": self.seed,
            "augmentation": "random crop of 0.5 to 1 of the area, aspect 3:4 to 4:3, flipped at random",
        }

    def __call__(self, image: Image.Image, key: str) -> Image.Image:
        digest = hashlib.sha256(f"view {self.seed} {key} {self.view}".encode()).digest()
        # Of this generator Python promises equal numbers in all versions, as long as only `random()` is called.
        draw = random.Random(int.from_bytes(digest[:8], "little")).random
        left, top, width, height = _box(draw, *image.size)
        part = image.crop((left, top, left + width, top + height))
        return ImageOps.mirror(part) if draw() < 0.5 else part


def _box(draw: Callable[[], float], width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels, as torchvision's `RandomResizedCrop.get_params` chooses it."""
    low, high = map(math.log, _ASPECT)
    for _ in range(_TRIES):
        area = width * height * (_AREA[0] + (_AREA[1] - _AREA[0]) * draw())
        aspect = math.exp(low + (high - low) * draw())
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        left, top = draw(), draw()
        if 0 < wide <= width and 0 < tall <= height:
            return int(left * (width - wide + 1)), int(top * (height - tall + 1)), wide, tall
    wide = min(width, round(height * _ASPECT[1]))  # a very long picture: its middle
    tall = min(height, round(width / _ASPECT[0]))
    return (width - wide) // 2, (height - tall) // 2, wide, tall
