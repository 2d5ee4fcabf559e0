"""Size, format and EXIF turn of stored pictures; what needs no change keeps its bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from seed_dist.data.codec import decode_image, with_checked
from seed_dist.data.image_policy import ImagePolicy, stored_image
from tests.pictures import picture

ORIENTATION = 0x0112


def store(data, **options):
    policy = ImagePolicy(**options)
    assert policy.problems() == []
    return with_checked(data, lambda image: stored_image(image, data, policy))


def turned(size=(20, 10)):
    """A picture that EXIF turns by a quarter: seen as 10 x 20, blue at the top."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (0, 0, 4, size[1]))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resize": "shorter", "size_px": 10},  # 12 x 10 already
        {"resize": "shorter", "size_px": 64},  # nothing is enlarged
        {"exif_turn": "apply", "quality": 50},  # upright already
    ],
)
def test_what_needs_no_change_is_copied(kind, options):
    data = picture(1, kind)
    assert store(data, **options) == ({"JPEG": "jpg"}.get(kind, kind.lower()), data)


def test_the_own_format_is_no_change_and_another_is():
    data = picture(1, "JPEG")
    assert store(data, format="jpg")[1] == data
    ext, stored = store(data, format="png")
    assert (ext, stored[:4]) == ("png", b"\x89PNG")
    assert (np.asarray(decode_image(stored)) == np.asarray(decode_image(data))).all()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"resize": "shorter", "size_px": 50}, (100, 50)),
        ({"resize": "shorter", "size_px": 33}, (66, 33)),
        ({"resize": "squash", "size_px": 50}, (50, 50)),
        ({"resize": "squash", "size_px": 224}, (224, 224)),
    ],
)
def test_sizes(options, size):
    ext, stored = store(picture(2, "JPEG", (200, 100)), **options)
    assert ext == "jpg"
    assert decode_image(stored).size == size


def test_quality_is_that_of_what_is_made_here():
    data = picture(3, "JPEG", (200, 200))
    options = {"resize": "shorter", "size_px": 100}
    assert len(store(data, quality=20, **options)[1]) < len(store(data, quality=95, **options)[1]) / 2


def test_exif_is_kept_or_applied():
    data = turned()
    assert store(data) == ("png", data)
    _, upright = store(data, exif_turn="apply")
    with Image.open(io.BytesIO(upright)) as image:
        assert image.size == (10, 20)
        assert ORIENTATION not in image.getexif()
    assert (np.asarray(decode_image(upright)) == np.asarray(decode_image(data))).all()
    resized = decode_image(store(data, resize="shorter", size_px=5)[1])  # a picture made anew is upright
    assert resized.size == (5, 10)
    assert resized.getpixel((2, 0))[2] > 200


def test_options_that_make_no_sense_are_named_together():
    assert len(ImagePolicy(resize="squash", quality=0).problems()) == 2
    assert len(ImagePolicy(size_px=8).problems()) == 1
    assert len(ImagePolicy(resize="shorter", size_px=1).problems()) == 1


def test_area_is_the_average_over_what_a_pixel_covers():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    _, data = store(buffer.getvalue(), resize="shorter", size_px=4, resample="area")
    means = pixels.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(decode_image(data)) - means).max() <= 1  # rounded twice
    assert "resample" not in ImagePolicy().details  # sets of earlier versions do not name it
    assert ImagePolicy(resample="area").details["resample"] == "area"
