"""Small sources of images and captions for tests, and the bytes of the sets made from them."""

import hashlib
import io

import numpy as np
from PIL import Image


def picture(seed, kind="PNG", size=(12, 10), mode="RGB", **options):
    """Bytes of a small noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def fill(folder, count, start=0):
    """`count` pairs, jpg and png in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        kind, suffix = (("JPEG", "jpg"), ("PNG", "png"))[i % 2]
        (folder / f"{i:04d}.{suffix}").write_bytes(picture(i, kind))
        (folder / f"{i:04d}.txt").write_text(f"caption number {i}\n")
    return folder


def content(folder):
    """{relative name: SHA-256} of all files of a finished set, without the note of where its source lies."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".source.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
