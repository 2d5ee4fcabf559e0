"""Small changes of a picture after which a tokenizer should say much the same. What is drawn belongs to the picture."""

from __future__ import annotations

import hashlib
import io
import random

from PIL import Image, ImageEnhance, ImageOps

PROTOCOL = {
    "crop": "a part of 90 % of both sides, its place drawn",
    "flip": "left and right exchanged",
    "jitter": "brightness, contrast and colour times 0.8 to 1.2, drawn",
    "jpeg": "JPEG of quality 50",
}
_SIDE, _JITTER, _QUALITY = 0.9, 0.2, 50


def perturbed(picture: Image.Image, kind: str, key: str, seed: int) -> Image.Image:
    """The picture changed in one of the ways of PROTOCOL; equal arguments give equal pixels."""
    drawn = random.Random(f"{seed} {kind} {key}")
    if kind == "crop":
        width, height = (max(1, round(side * _SIDE)) for side in picture.size)
        left, top = drawn.randint(0, picture.width - width), drawn.randint(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))
    if kind == "flip":
        return ImageOps.mirror(picture)
    if kind == "jitter":
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhance(picture).enhance(drawn.uniform(1 - _JITTER, 1 + _JITTER))
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return Image.open(buffer).convert("RGB")


def is_probe(key: str, one_in: int) -> bool:
    """Whether this example is among those that are perturbed, about one in so many: by its key, whatever the set."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % one_in == 0
