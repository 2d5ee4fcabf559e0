"""Pictures in and out of bytes, in one place: how a stored image becomes RGB pixels, and which images may be stored.

Shards keep the bytes of the source, EXIF included, unless an option changes the picture (see `image_policy`).
Orientation, transparency and depth are resolved when decoding, by `seed_dist.pixels`, so that nothing is compressed
twice and the rule stands in every manifest of features made from it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from seed_dist.pixels import UnusableImageError, as_rgb, check_size

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # stored as they are
Result = TypeVar("Result")


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
            check_size(*image.size)
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
