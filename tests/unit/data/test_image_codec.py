"""Which images may be stored, and that decoding gives the right upright RGB pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from seed_dist.data.codec import check_image, decode_image
from seed_dist.pixels import UnusableImageError
from tests.pictures import bomb, picture

ORIENTATION = 0x0112


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "ext"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_common_formats_are_kept_byte_for_byte(kind, ext, mode):
    data = picture(0, kind, mode=mode)
    assert check_image(data) == (ext, data)
    assert decode_image(data).mode == "RGB"


@pytest.mark.parametrize(("kind", "mode"), [("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "CMYK")])
def test_other_formats_become_png_with_the_same_pixels(kind, mode):
    data = picture(1, kind, mode=mode)
    ext, stored = check_image(data)
    assert ext == "png"
    assert stored[:4] == b"\x89PNG"
    assert (np.asarray(decode_image(stored)) == np.asarray(decode_image(data))).all()


def test_the_format_is_that_of_the_bytes_not_of_the_name():
    assert check_image(picture(2, "PNG"))[0] == "png"  # whatever the file was called


def broken_png():
    data = bytearray(picture(3, "PNG"))
    data[60] ^= 1  # inside the compressed pixels: the chunk's checksum no longer fits
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable_image"),
        (b"<html><body>404</body></html>", "unreadable_image"),
        (bytes(1000), "unreadable_image"),
        (picture(4, "JPEG")[:-60], "unreadable_image"),
        (picture(4, "PNG")[:-30], "unreadable_image"),
        (broken_png(), "unreadable_image"),
        (bomb(), "image_too_large"),
        (picture(5, size=(1, 1)), "image_too_small"),
        (picture(5, size=(1, 30)), "image_too_small"),
    ],
)
def test_unusable_images_are_named(data, reason):
    with pytest.raises(UnusableImageError) as caught:
        check_image(data)
    assert caught.value.reason == reason
    assert str(caught.value)


def test_every_cut_of_a_jpeg_is_noticed():
    data = picture(6, "JPEG", size=(40, 40))
    cuts = range(10, len(data) - 40, 37)
    assert len(cuts) > 20
    for cut in cuts:
        with pytest.raises(UnusableImageError):
            check_image(data[:cut])


def test_exif_orientation_stays_in_the_bytes_and_is_applied_when_decoding():
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 4, 10))  # blue at the left
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown turned right by 90 degrees
    data = encoded(image, "PNG", exif=exif)
    assert check_image(data) == ("png", data)
    upright = decode_image(data)
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 1)) == (0, 0, 255)  # left has become top
    assert upright.getpixel((5, 18)) == (255, 0, 0)


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    for data in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True)):
        decoded = decode_image(data)
        assert decoded.getpixel((3, 3)) == (255, 255, 255)
        assert decoded.getpixel((0, 0)) == (0, 0, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "PNG")))
    assert decoded[..., 0].tolist() == [[0, 100], [200, 255]]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("green", "red")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(check_image(data)[1]).getpixel((4, 4)) == (0, 128, 0)
