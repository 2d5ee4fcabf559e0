"""The picture of an example: a file that is opened when it is asked for, by the rules for stored images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from seed_dist.data.codec import with_checked
from seed_dist.errors import DataError
from seed_dist.pixels import UnusableImageError, as_rgb


@dataclass(frozen=True)
class PictureFile:
    """Gives the picture, upright RGB. Equal paths are the same picture, so that it need not be encoded twice."""

    path: str

    def __call__(self) -> Image.Image:
        """Raises DataError naming the file and what is wrong with it."""
        try:
            return with_checked(Path(self.path).read_bytes(), as_rgb)
        except (OSError, UnusableImageError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise DataError(f"picture {self.path} cannot be used: {reason}. Download it again.") from error


def picture_below(folder: Path, name: str) -> PictureFile | None:
    """The picture `name` in `folder`; None for a name that leads out of it, or that no file can have."""
    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        return None
    return PictureFile(str(folder / path))


def missing(pictures: Iterable[PictureFile]) -> list[str]:
    """Paths of those that are not there. Folders are listed once: asking for 40 000 files one by one takes minutes on a
    network disk."""
    names: dict[str, set[str]] = {}
    absent = []
    for picture in pictures:
        folder, name = os.path.split(picture.path)
        if folder not in names:
            names[folder] = _names(folder)
        if name not in names[folder]:
            absent.append(picture.path)
    return absent


def _names(folder: str) -> set[str]:
    try:
        return {path.name for path in Path(folder).iterdir()}
    except OSError:  # not there, or a name that no folder can have
        return set()
