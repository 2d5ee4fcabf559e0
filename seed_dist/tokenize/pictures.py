"""The pictures that a user names: files, folders of them, and webdataset shards, one after the other."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from seed_dist.data.codec import check_image, decode_image
from seed_dist.data.folder_source import walk
from seed_dist.data.pairs import IMAGE_SUFFIXES, readable
from seed_dist.errors import DataError
from seed_dist.pixels import UnusableImageError

_SHARD_SUFFIX = ".tar"


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture and its name, which has no line breaks or tabs."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Unreadable:
    """A picture, or a whole shard, that cannot be used, and why."""

    name: str
    reason: str


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files named directly, and pictures and shards below folders. DataError lists what is not there or empty."""
    files, problems = [], []
    for path in paths:
        if path.is_dir():
            found = [path / name for name in walk(path) if _suffix(name) in {*IMAGE_SUFFIXES, _SHARD_SUFFIX}]
            files += found
            problems += [] if found else [f"folder {path} holds no pictures and no {_SHARD_SUFFIX} files"]
        elif path.is_file():
            files.append(path)
        else:
            problems.append(f"{path} does not exist")
    if problems:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{'; '.join(problems)}. Give pictures ({kinds}), folders of them, or {_SHARD_SUFFIX} shards.")
    return files


def read_pictures(files: Sequence[Path]) -> Iterator[Picture | Unreadable]:
    """Every picture in order, read when it is asked for; one that is broken does not keep the others back."""
    for path in files:
        if path.suffix.lower() == _SHARD_SUFFIX:
            yield from _in_shard(path)
        else:
            yield read_picture(path)


def read_picture(path: Path) -> Picture | Unreadable:
    """One picture file."""
    return _picture(_line(path), path)


def _in_shard(path: Path) -> Iterator[Picture | Unreadable]:
    count = 0
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                if member.isfile() and _suffix(member.name) in IMAGE_SUFFIXES:
                    count += 1
                    file = shard.extractfile(member)
                    assert file is not None, f"{member.name} is a file"
                    yield _picture(f"{_line(path)}/{_line(member.name)}", file.read())
    except (tarfile.TarError, OSError) as error:
        yield Unreadable(_line(path), f"the shard is damaged after {count} pictures: {error}")
        return
    if not count:
        yield Unreadable(_line(path), "the shard holds no pictures; give one of images, as data_prep/shard.py writes")


def _picture(name: str, source: Path | bytes) -> Picture | Unreadable:
    """Decoded by the rules for stored images, so that ids are those of the pipeline."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        return Picture(name, decode_image(check_image(data)[1]))
    except UnusableImageError as error:
        return Unreadable(name, f"{error.reason}: {error}")
    except OSError as error:
        return Unreadable(name, f"unreadable_image: {error.strerror or error}")


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _line(name: Path | str) -> str:
    """A name on one line, whatever bytes and controls are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable(os.fspath(name)))
