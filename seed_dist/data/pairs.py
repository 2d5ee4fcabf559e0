"""What a source yields before any image is read: named pairs in a fixed order, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_EDGE_BYTES = 1 << 16


@dataclass(frozen=True)
class Cell:
    """Image bytes inside a parquet file: row (from 0) of a column; `member` names a field of a struct column."""

    file: str
    column: str
    row: int
    member: str | None = None


@dataclass(frozen=True)
class Pair:
    """One image with its caption as raw bytes. `problem` is (reason, detail) where reading need not even be tried."""

    name: str
    image: str | Cell | None
    caption: bytes = b""
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Listing:
    """All pairs of a source. `fingerprint` changes with any name, caption or image file (see `file_identity`)."""

    kind: str
    pairs: list[Pair]
    fingerprint: str


def file_identity(path: Path) -> str:
    """Size and CRC-32 of the first and last 64 KiB: cheap for millions of files, and independent of their dates.

    All of a small image and of a parquet file's footer is covered; an edit of the middle that keeps the size is not
    seen. A file that cannot be read has "missing" or "unreadable" instead, and the pair is rejected when it is read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            checksum = zlib.crc32(file.read(_EDGE_BYTES))
            if size > 2 * _EDGE_BYTES:
                file.seek(-_EDGE_BYTES, os.SEEK_END)
            return f"{size}:{zlib.crc32(file.read(_EDGE_BYTES), checksum):08x}"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return "missing"
    except PermissionError:
        return "unreadable"


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
    """A file name as valid text: bytes that are not UTF-8 appear as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
