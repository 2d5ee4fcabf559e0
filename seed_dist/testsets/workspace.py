"""The images of a workspace as a test set: what `data_prep/shard.py` stored, with all captions of each picture."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

from PIL import Image

from seed_dist.data.manifest import MANIFEST_NAME
from seed_dist.data.reader import ImageShards
from seed_dist.errors import DataError, UnavailableError
from seed_dist.fsio import fingerprint
from seed_dist.pixels import UnusableImageError
from seed_dist.testsets.example import Example, TestSet


def open_workspace(work: Path, split: str) -> TestSet:
    """WORK/images/SPLIT. UnavailableError with the command that makes it."""
    folder = work / "images" / split
    if not (folder / MANIFEST_NAME).is_file():
        command = f"python data_prep/shard.py SOURCE {shlex.quote(str(folder))}"
        raise UnavailableError(f"{folder} is not there, or not finished.", command)
    images = ImageShards(folder)
    if not len(images):
        raise DataError(f"{folder} holds no images, so there is nothing to measure. Choose another split.")
    examples = [
        Example(key, partial(_image, images, row), captions)
        for row, (key, captions) in enumerate(zip(images.keys, images.all_captions, strict=True))
    ]
    card = {
        "name": "workspace",
        "split": split,
        "images": len(images),
        "captions": sum(len(example.captions) for example in examples),
        "licence": "that of the source",
        "source": "images of the workspace",
        "manifest": images.manifest.fingerprint,
        "fingerprint": fingerprint([images.manifest.fingerprint, len(images)]),
    }
    return TestSet("workspace", split, examples, card)


def _image(images: ImageShards, row: int) -> Image.Image:
    try:
        return images.image(row)
    except (UnusableImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{images.folder}: sample {images.keys[row]} cannot be decoded: {error}.") from error
