"""What a foreign tar holds, by its headers alone: nothing is unpacked or trusted, and no damage is passed over.

The standard library's tarfile ends quietly at a broken header in the middle of a file, and believes any size that a
header states; both would lose or cost more than they should, so they are checked here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from seed_dist.data.pairs import readable

_HEADER_BYTES = 1 << 20  # of one member, its long names and extended attributes together
_CHUNK_BYTES = 1 << 16
_KINDS = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device",
          tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe"}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A member's name and its payload's place, bytes; `fault` says why it must not be used."""

    name: str
    offset: int
    size: int
    fault: str | None = None


class DamagedTarError(ValueError):
    """The tar is not whole: what follows the members that were read so far is lost."""


def tar_members(path: Path) -> Iterator[Member]:
    """Members in order, folders left out. Raises DamagedTarError where the tar ends too early or is none."""
    with path.open("rb") as file:
        file_bytes, headers = file.seek(0, 2), _Headers(file)
        file.seek(0)
        with _opened(headers) as tar:
            position = -1
            while (member := _next(tar, headers)) is not None:
                if member.size < 0 or tar.offset <= position:
                    raise DamagedTarError(f"the header at byte {member.offset} states an impossible size")
                position = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
                if member.offset_data + member.size > file_bytes:
                    raise DamagedTarError(f"the file ends inside {readable(member.name)}")
                if not member.isdir():
                    yield Member(member.name, member.offset_data, member.size, _fault(member))
            _require_end(file, tar.offset)


def _opened(headers: _Headers) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=headers, mode="r:", errors="surrogateescape")  # type: ignore[call-overload]
    except Exception as error:  # hostile headers make the parser raise nearly anything
        raise DamagedTarError(f"it is no tar, or a compressed one: {error}. Unpack .tar.gz files first") from error


def _next(tar: tarfile.TarFile, headers: _Headers) -> tarfile.TarInfo | None:
    headers.left_bytes = _HEADER_BYTES
    if tar.offset == 0:  # empty: Python 3.10 would go on at byte -1
        return None
    try:
        return tar.next()
    except Exception as error:  # as above
        raise DamagedTarError(f"the header at byte {tar.offset} cannot be read: {error}") from error


def _fault(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the folder that a tar is unpacked into"
    if not member.isreg() or member.issparse():
        return f"it is {_KINDS.get(member.type, 'no ordinary file')}"
    return None


def _require_end(file: IO[bytes], offset: int) -> None:
    """An empty block, then nothing: tarfile itself takes any rubbish for the end."""
    file.seek(offset)
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise DamagedTarError(f"no end mark at byte {offset}: the file was cut or overwritten there")
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            raise DamagedTarError(f"there is more behind the end mark at byte {offset}: tars that were joined?")


class _Headers:
    """The file as tarfile sees it: nobody needs megabytes of header, and payloads are not read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left_bytes = file, _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left_bytes:
            raise DamagedTarError(f"the header states {size} bytes of names and attributes")
        self.left_bytes -= size
        return self._file.read(size)
