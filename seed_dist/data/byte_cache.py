"""A folder of fetched files that stays below a number of bytes; what was not used for longest goes first.

Processes of a node may share it: every change happens under a lock of the folder, files appear complete or not at all,
and one that is removed while somebody reads it stays readable to him. Nothing is flushed: after a power cut a file may
be empty or wrong, which the reader notices by its checksums.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seed_dist.fsio import PARTIAL_SUFFIX

_KEPT_SHARE = 0.9  # of the bytes, when files are removed: then it is not to be done again at once
_TOTAL = ".total"


class ByteCache:
    """Files of a folder, at most `size_bytes` of them together."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._size_bytes = folder, size_bytes

    def open(self, name: str, size_bytes: int) -> int | None:
        """A descriptor of a file of that size, which the caller closes; None where there is no such file."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != size_bytes:
            os.close(descriptor)
            self.remove(name)
            return None
        with suppress(FileNotFoundError):  # removed since; it can be read all the same
            os.utime(self.folder / name)
        return descriptor

    def add(self, name: str, data: bytes) -> None:
        """Keep a file, after room was made for it. OSError where the disk does not take it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            total = self._total() + len(data)
            if total > self._size_bytes:
                total = self._make_room(len(data)) + len(data)
            self._set_total(total)
            partial = path.with_name(path.name + PARTIAL_SUFFIX)
            try:
                partial.write_bytes(data)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Forget a file; the total is put right when room is made next."""
        (self.folder / name).unlink(missing_ok=True)

    def _make_room(self, wanted_bytes: int) -> int:
        """Remove files until `wanted_bytes` fit; the value is what is left, counted anew."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        found = sorted((status.st_mtime_ns, status.st_size, path) for path in files if (status := _status(path)))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            is_partial = path.name.endswith(PARTIAL_SUFFIX)  # of a process that died: others would hold the lock
            if is_partial or total > max(0, _KEPT_SHARE * self._size_bytes - wanted_bytes):
                path.unlink(missing_ok=True)
                total -= size
        return total

    def _total(self) -> int:
        try:
            return int((self.folder / _TOTAL).read_text())
        except (FileNotFoundError, ValueError):
            return self._size_bytes  # unknown: count

    def _set_total(self, total: int) -> None:
        (self.folder / _TOTAL).write_text(str(total))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
