"""Pictures in and out of bytes, in one place: how a stored image becomes RGB pixels, and which images may be stored.

Shards keep the bytes of the source, EXIF included; orientation, transparency and depth are resolved when decoding, by
`seed_dist.pixels`, so that nothing is compressed twice and the rule stands in every manifest of features made from it.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from seed_dist.pixels import UnusableImageError, check_size, upright_rgb

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # stored as they are


def decode_image(data: bytes) -> Image.Image:
    """A stored image as upright 8-bit RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return upright_rgb(image)


def check_image(data: bytes) -> tuple[str, bytes]:
    """(extension, bytes to store) of an image that decodes to its last pixel.

    JPEG, PNG and WebP come back unchanged; other formats become PNG. Raises UnusableImageError.
    """
    if not data:
        raise UnusableImageError("unreadable_image", "the file is empty")
    try:
        return _checked(data)
    except (UnusableImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # raised while opening when it is twice too large
        raise UnusableImageError("image_too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("unreadable_image", "these bytes are no image of a known format") from error
    except Exception as error:  # hostile bytes make Pillow's parsers raise nearly anything
        raise UnusableImageError("unreadable_image", f"{type(error).__name__}: {error}"[:200]) from error


def _checked(data: bytes) -> tuple[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning and remarks on odd metadata; our limit decides
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            check_size(*image.size)
            image.verify()  # checksums of the container; leaves the image unusable, so it is opened again
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if kind in _EXTENSIONS:
                return _EXTENSIONS[kind], data
            buffer = io.BytesIO()
            upright_rgb(image).save(buffer, "PNG")
    return "png", buffer.getvalue()
