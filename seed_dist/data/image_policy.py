"""What is done to a picture before it is stored: size, format, EXIF turn. One that needs no change keeps its bytes."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from seed_dist.data.codec import EXTENSIONS
from seed_dist.pixels import as_rgb

RESIZES = ("none", "shorter", "squash")
FORMATS = ("keep", "jpg", "png", "webp")
EXIF_TURNS = ("keep", "apply")
# "area" weighs each pixel by how much of it a smaller one covers, as OpenCV's INTER_AREA, and img2dataset with it.
RESAMPLES = {"bicubic": Image.Resampling.BICUBIC, "area": Image.Resampling.BOX}
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
_PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class ImagePolicy:
    """`resize` to `size_px`: "shorter" shrinks until the shorter side has it, and enlarges nothing; "squash" makes a
    square of it without regard to the aspect ratio. `format` "keep" stores what is no JPEG, PNG or WebP as PNG.
    `quality` (1 to 100) is that of JPEG and WebP which are made here. `exif_turn` "apply" stores turned pictures
    upright; "keep" leaves the turning to whoever decodes. `resample`, one of RESAMPLES, is how pixels are joined, with
    antialiasing: "area" is faster than "bicubic" and a little softer.
    """

    resize: str = "none"
    size_px: int | None = None
    format: str = "keep"
    quality: int = 95
    exif_turn: str = "keep"
    resample: str = "bicubic"

    @property
    def details(self) -> dict[str, Any]:
        """For the manifest. Without `resample` where it is the usual one, which older sets do not name."""
        values = asdict(self)
        return values if self.resample != "bicubic" else {n: v for n, v in values.items() if n != "resample"}

    def problems(self) -> list[str]:
        """What is wrong with the options, named as on the command line."""
        found = []
        if (self.resize == "none") != (self.size_px is None):
            found.append(f"--resize is {self.resize} and --size-px {self.size_px}; give both or neither")
        if self.size_px is not None and self.size_px < 2:
            found.append(f"--size-px is {self.size_px}; at least 2 is needed")
        if not 1 <= self.quality <= 100:
            found.append(f"--quality is {self.quality}; a number from 1 to 100 is needed")
        return found


def stored_image(image: Image.Image, data: bytes, policy: ImagePolicy) -> tuple[str, bytes]:
    """(extension, bytes) to store of a loaded image that came from `data`."""
    own = EXTENSIONS.get(image.format or "")
    ext = policy.format if policy.format != "keep" else own or "png"
    upright = upright_size(image)
    size = _wanted_size(upright, policy)
    turned = policy.exif_turn == "apply" and _orientation(image) != 1
    if ext == own and size == upright and not turned:
        return ext, data
    picture = as_rgb(image)
    if size != picture.size:
        picture = picture.resize(size, RESAMPLES[policy.resample])
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if ext == "png" else {"quality": policy.quality}
    picture.save(buffer, _PILLOW_NAMES[ext], **options)
    return ext, buffer.getvalue()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as the picture is seen."""
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _wanted_size(size: tuple[int, int], policy: ImagePolicy) -> tuple[int, int]:
    if policy.size_px is None:
        return size
    if policy.resize == "squash":
        return policy.size_px, policy.size_px
    shorter = min(size)
    if shorter <= policy.size_px:
        return size
    width, height = (max(1, round(side * policy.size_px / shorter)) for side in size)
    return width, height
