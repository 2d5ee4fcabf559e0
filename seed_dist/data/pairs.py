"""What a source yields before any image is read: named images with their captions, in a fixed order."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_CAPTION_BYTES = 1 << 16  # longer texts are no captions; the rest is not even read
_EDGE_BYTES = 1 << 16
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    """Image bytes inside a parquet or Arrow file: row (from 0) of a column; `member` names a field of a struct."""

    file: str
    column: str
    row: int
    member: str | None = None


@dataclass(frozen=True)
class Span:
    """Image bytes inside a tar: `size` bytes from `offset`."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class Pair:
    """One image with its captions as raw bytes; several captions are of the same image.

    `image` is a file's absolute path or a URL, or a place inside a larger file. `problem` is (reason, detail) where
    reading need not even be tried.
    """

    name: str
    image: str | Cell | Span | None
    captions: tuple[bytes, ...] = ()
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Source:
    """A kind ("folder", "csv", ...) and its pairs; every call of `pairs` begins anew, in the same order."""

    kind: str
    pairs: Callable[[], Iterator[Pair]]


def is_url(image: object) -> TypeGuard[str]:
    """Whether an image is to be fetched; paths begin with a slash."""
    return isinstance(image, str) and _URL.match(image) is not None


def file_identity(path: Path) -> str:
    """Size and CRC-32 of the first and last 64 KiB: cheap for millions of files, and independent of their dates.

    All of a small image and of a parquet file's footer is covered; an edit of the middle that keeps the size is not
    seen. What cannot be read has "missing" or "unreadable" instead, and the pair is rejected when it is read.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
            return "missing"
        with path.open("rb") as file:
            checksum = zlib.crc32(file.read(_EDGE_BYTES))
            if state.st_size > 2 * _EDGE_BYTES:
                file.seek(-_EDGE_BYTES, os.SEEK_END)
            return f"{state.st_size}:{zlib.crc32(file.read(_EDGE_BYTES), checksum):08x}"
    except PermissionError:
        return "unreadable"
    except (OSError, ValueError):  # not there, a name that is too long, a NUL in a name
        return "missing"


def read_regular(path: Path, limit_bytes: int) -> bytes | None:
    """The first `limit_bytes` of a file; None for what is no regular file. Raises OSError, ValueError for odd names."""
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return file.read(limit_bytes)


class Digest:
    """16 hex digits over a stream of byte strings, their borders included."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *parts: bytes) -> None:
        for part in parts:
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)

    @property
    def value(self) -> str:
        return self._hash.hexdigest()[:16]


def readable(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 appear as \\xNN, as do halves of surrogate pairs."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
