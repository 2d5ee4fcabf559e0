"""Writes one shard: an ordinary tar whose bytes depend on its members alone, and which tells where each payload lies.

Headers come from the standard library's tarfile, because webdataset's TarWriter does not tell offsets; every header
field that could vary (time, owner, mode) is fixed, so that equal samples give equal files.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.manifest import ShardEntry
from seed_dist.fsio import atomic_file

_MODE = 0o644


@dataclass(frozen=True)
class Place:
    """Where a payload lies in its shard, bytes, and its CRC-32."""

    offset: int
    size: int
    checksum: int


class TarFile:
    """An open shard; `entry` describes it once `close_archive` has been called."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self._file = name, file
        self._digest, self._position = hashlib.sha256(), 0

    def add(self, name: str, payload: bytes | memoryview) -> Place:
        """Append a member; `payload` is written as it is."""
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(payload), _MODE, 0
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        place = Place(self._position, len(payload), zlib.crc32(payload))
        self._write(payload)
        self._write(bytes(-len(payload) % tarfile.BLOCKSIZE))
        return place

    def close_archive(self) -> None:
        """The end mark (two empty blocks), filled up to tar's record size as every tar program does."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._position % tarfile.RECORDSIZE))

    def entry(self, samples: int) -> ShardEntry:
        return ShardEntry(self.name, samples, self._position, self._digest.hexdigest())

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)


@contextmanager
def open_shard(path: Path) -> Iterator[TarFile]:
    """A shard that appears under `path`, flushed to disk, only when the block ends well."""
    with atomic_file(path) as file:
        shard = TarFile(path.name, file)
        yield shard
        shard.close_archive()


def npy_header(dtype: npt.DTypeLike, shape: tuple[int, ...]) -> bytes:
    """The bytes that come before the numbers in an .npy file of one C-ordered array."""
    header: dict[str, Any] = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
