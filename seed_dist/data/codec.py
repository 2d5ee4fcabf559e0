"""Pictures in and out of bytes, in one place: how a stored image becomes RGB pixels, and which images may be stored.

Shards keep the bytes of the source, EXIF included, unless an option changes the picture (see `image_policy`).
Orientation, transparency and depth are resolved when decoding, by `decode_image`, so that nothing is compressed twice
and the rule stands in every manifest of features made from it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

DECODING = "EXIF orientation applied, first frame, 16 bits to 8, transparency over white, RGB"
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB pixels
_MIN_SIDE_PX = 2  # a side of one pixel is a tracking pixel or a failed download
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # stored as they are
Result = TypeVar("Result")


class UnusableImageError(ValueError):
    """An image that must not enter a data set: `reason` for counting, the text says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def decode_image(data: bytes) -> Image.Image:
    """A stored image as upright 8-bit RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return as_rgb(image)


def check_image(data: bytes) -> tuple[str, bytes]:
    """(extension, bytes to store) of an image that decodes to its last pixel.

    JPEG, PNG and WebP come back unchanged; other formats become PNG. Raises UnusableImageError.
    """
    return with_checked(data, lambda image: _stored(image, data))


def with_checked(data: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of an image that decodes to its last pixel. Raises UnusableImageError."""
    if not data:
        raise UnusableImageError("unreadable_image", "the file is empty")
    try:
        return _with_checked(data, use)
    except (UnusableImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # raised while opening when it is twice too large
        raise UnusableImageError("image_too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("unreadable_image", "these bytes are no image of a known format") from error
    except Exception as error:  # hostile bytes make Pillow's parsers raise nearly anything
        raise UnusableImageError("unreadable_image", f"{type(error).__name__}: {error}"[:200]) from error


def _with_checked(data: bytes, use: Callable[[Image.Image], Result]) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning and remarks on odd metadata; our limit decides
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise UnusableImageError("image_too_large", f"{width} x {height} pixels; at most {MAX_IMAGE_PIXELS}")
            if min(width, height) < _MIN_SIDE_PX:
                raise UnusableImageError("image_too_small", f"{width} x {height} pixels")
            image.verify()  # checksums of the container; leaves the image unusable, so it is opened again
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return use(image)


def _stored(image: Image.Image, data: bytes) -> tuple[str, bytes]:
    if image.format in EXTENSIONS:
        return EXTENSIONS[image.format], data
    buffer = io.BytesIO()
    as_rgb(image).save(buffer, "PNG")
    return "png", buffer.getvalue()


def as_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as upright 8-bit RGB."""
    image = ImageOps.exif_transpose(image)  # a loaded copy, turned upright where EXIF says so
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel, in whichever of Pillow's modes
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")
