"""Writes one shard: an ordinary tar whose bytes depend on its members alone, and which tells where each payload lies.

Every header field that could vary (time, owner, mode) is fixed, so that equal samples give equal files. That leaves
name, size and checksum to be set per member: the rest of a header is made once, by the standard library's tarfile.
webdataset's TarWriter does not tell offsets, and writes a header more per member for a time with fractions.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from seed_dist.data.manifest import ShardEntry
from seed_dist.fsio import atomic_file

_MODE = 0o644
# POSIX.1-1988 (ustar): fields of a header with their places, bytes; numbers are octal digits.
_NAME_BYTES, _SIZE, _CHECKSUM = 100, slice(124, 136), slice(148, 156)
_LARGEST = 8**11 - 1  # what fits into the 11 digits of a size


def _blank_header() -> bytes:
    """The header of a nameless empty member, with blanks for its checksum, as they count in checksums."""
    member = tarfile.TarInfo()
    member.mode, member.mtime = _MODE, 0
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    header[_CHECKSUM] = b" " * 8
    return bytes(header)


_BLANK = _blank_header()
_BEFORE_SIZE, _BEFORE_CHECKSUM = _BLANK[_NAME_BYTES : _SIZE.start], _BLANK[_SIZE.stop : _CHECKSUM.start]
_AFTER_CHECKSUM = _BLANK[_CHECKSUM.stop :]
_BLANK_SUM = sum(_BLANK) - sum(_BLANK[_SIZE])
_BYTES_AT_ONCE = 1 << 20
_PADDING = bytes(tarfile.BLOCKSIZE)


def tar_header(name: str, size_bytes: int) -> bytes:
    """The 512 bytes before the payload of an ordinary file. ValueError for what plain ustar cannot say."""
    encoded = name.encode("ascii")
    if len(encoded) > _NAME_BYTES or not 0 <= size_bytes <= _LARGEST:
        raise ValueError(f"member {name!r} of {size_bytes} bytes does not fit into a ustar header")
    size = b"%011o\0" % size_bytes
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(encoded) + sum(size))
    place = encoded.ljust(_NAME_BYTES, b"\0")
    return b"".join((place, _BEFORE_SIZE, size, _BEFORE_CHECKSUM, checksum, _AFTER_CHECKSUM))


@dataclass(frozen=True)
class Place:
    """Where a payload lies in its shard, bytes, and its CRC-32."""

    offset: int
    size: int
    checksum: int


class TarFile:
    """An open shard; `entry` describes it once `close_archive` has been called."""

    def __init__(self, name: str, file: IO[bytes], thread: Executor) -> None:
        self.name, self._file = name, file
        self._digest, self._position = hashlib.sha256(), 0
        self._parts: list[bytes | memoryview] = []  # not yet written
        self._written = 0
        self._thread = thread
        self._digested = thread.submit(self._digest.update, b"")

    def add(self, name: str, payload: bytes | memoryview) -> Place:
        """Append a member; `payload` is written as it is, and must not change before the archive is closed."""
        size = len(payload)
        place = Place(self._position + tarfile.BLOCKSIZE, size, crc32(payload))
        padding = -size % tarfile.BLOCKSIZE
        self._parts += (tar_header(name, size), payload, _PADDING[:padding])
        self._position = place.offset + size + padding
        if self._position - self._written >= _BYTES_AT_ONCE:
            self._write()
        return place

    def close_archive(self) -> None:
        """The end mark (two empty blocks), filled up to tar's record size as every tar program does."""
        end = self._position + 2 * tarfile.BLOCKSIZE
        end += -end % tarfile.RECORDSIZE
        self._parts.append(bytes(end - self._position))
        self._position = end
        self._write()

    def entry(self, samples: int) -> ShardEntry:
        self._digested.result()
        return ShardEntry(self.name, samples, self._position, self._digest.hexdigest())

    def _write(self) -> None:
        """Write what was added; the digest of it is taken meanwhile, by a thread that needs no lock of Python's."""
        data = b"".join(self._parts)
        self._digested.result()
        self._digested = self._thread.submit(self._digest.update, data)
        self._file.write(data)
        self._parts, self._written = [], self._position


@contextmanager
def open_shard(path: Path) -> Iterator[TarFile]:
    """A shard that appears under `path`, flushed to disk, only when the block ends well."""
    with ThreadPoolExecutor(1, "digest") as thread, atomic_file(path) as file:
        shard = TarFile(path.name, file, thread)
        yield shard
        shard.close_archive()


def npy_header(dtype: npt.DTypeLike, shape: tuple[int, ...]) -> bytes:
    """The bytes that come before the numbers in an .npy file of one C-ordered array."""
    header: dict[str, Any] = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
