"""Small sources of images and captions for tests, and the bytes of the sets made from them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, kind: str = "PNG", size: tuple[int, int] = (12, 10), mode: str = "RGB", **options: Any) -> bytes:
    """Bytes of a small noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def odd_pictures() -> dict[str, bytes]:
    """{file name: bytes} of every kind of picture for which converting to RGB alone would not do."""

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right by 90 degrees
    colour: list[Image.Image] = [Image.open(io.BytesIO(picture(seed, size=(16, 11)))) for seed in range(4)]
    clear = colour[0].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray((np.arange(16 * 11, dtype=np.uint16) * 370).reshape(11, 16))
    return {
        "turned.jpg": encoded(colour[1], "JPEG", exif=exif),
        "grey.png": encoded(colour[2].convert("L"), "PNG"),
        "grey_clear.png": encoded(clear.convert("LA"), "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "clear.webp": encoded(clear, "WEBP", lossless=True),
        "palette_clear.png": encoded(clear.quantize(16), "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "deep.tif": encoded(deep, "TIFF"),
        "ink.jpg": encoded(colour[3].convert("CMYK"), "JPEG"),
        "ink.tif": encoded(colour[3].convert("CMYK"), "TIFF"),
        "bits.png": encoded(colour[0].convert("1"), "PNG"),
        "moving.gif": encoded(colour[0], "GIF", save_all=True, append_images=colour[1:]),
        "moving.webp": encoded(colour[0], "WEBP", save_all=True, append_images=colour[1:], lossless=True),
    }


def fill(folder: Path, count: int, start: int = 0) -> Path:
    """`count` pairs, jpg and png in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        kind, suffix = (("JPEG", "jpg"), ("PNG", "png"))[i % 2]
        (folder / f"{i:04d}.{suffix}").write_bytes(picture(i, kind))
        (folder / f"{i:04d}.txt").write_text(f"caption number {i}\n")
    return folder


def content(folder: Path) -> dict[str, str]:
    """{relative name: SHA-256} of all files of a finished set, without the note of where its source lies."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".source.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
