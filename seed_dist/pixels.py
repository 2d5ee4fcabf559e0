"""What the pixels of a picture are: one rule for stored images and for those that a user hands over."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

DECODING = "EXIF orientation applied, first frame, 16 bits to 8, transparency over white, RGB"
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB pixels
_MIN_SIDE_PX = 2  # a side of one pixel is a tracking pixel or a failed download


class UnusableImageError(ValueError):
    """An image that has no usable pixels: `reason` for counting, the text says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def check_size(width: int, height: int) -> None:
    """Raises UnusableImageError for pictures that are too large to decode safely or too small to show anything."""
    if width * height > MAX_IMAGE_PIXELS:
        raise UnusableImageError("image_too_large", f"{width} x {height} pixels; at most {MAX_IMAGE_PIXELS}")
    if min(width, height) < _MIN_SIDE_PX:
        raise UnusableImageError("image_too_small", f"{width} x {height} pixels; at least {_MIN_SIDE_PX} a side")


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as upright 8-bit RGB; of an animation the frame that it stands at, at first the first."""
    image = ImageOps.exif_transpose(image)  # a loaded copy, turned upright where EXIF says so
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel, in whichever of Pillow's modes
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")
