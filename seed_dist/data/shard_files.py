"""Reads payloads out of the tars of a finished set, by offset, and checks every one against its checksum.

`pread` instead of a memory map: a file that was cut, or a disk that fails, gives an error that names the sample,
where a map would kill the process (SIGBUS). The page cache serves both alike.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.assembly import require_files
from seed_dist.data.index import Index
from seed_dist.data.manifest import load_manifest
from seed_dist.errors import DataError, MismatchError

_OPEN_FILES = 64  # of one set; several sets must fit into the usual limit of 1024 per process


class ShardFiles:
    """An open set of one kind. Threads may share it; their reads follow one another."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        if self.manifest.kind != kind:
            raise MismatchError(f"kind of {folder}", self.manifest.kind, kind, "Give the folder of a set of that kind.")
        require_files(folder, self.manifest)
        self.index = Index(folder, self.manifest)
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()  # no file is closed for room while another thread reads it

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def read_into(self, row: int, parts: list[Any]) -> None:
        """Fill the writable buffers `parts`, together as long as the row's payload. DataError if it is not intact."""
        index = self.index
        with self._lock:
            found = os.preadv(self._descriptor(int(index.shard[row])), parts, int(index.offset[row]))
        if found != index.size[row]:
            raise DataError(f"{self.place(row)} ends after {found} of {index.size[row]} bytes. {self._advice(row)}")
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        if checksum != index.checksum[row]:
            expected = int(index.checksum[row])
            raise DataError(
                f"{self.place(row)} has checksum {checksum:08x}, but {expected:08x} was written: it is damaged. "
                f"{self._advice(row)}"
            )

    def read(self, row: int) -> bytearray:
        """The payload of a row."""
        data = bytearray(int(self.index.size[row]))
        self.read_into(row, [data])
        return data

    def place(self, row: int) -> str:
        """Which sample of which file, for messages."""
        return f"sample {self.index.keys[row]} in {self._path(int(self.index.shard[row]))}"

    def shard_rows(self, number: int) -> range:
        """The rows that a shard holds."""
        return range(int(self.index.first_row[number]), int(self.index.first_row[number + 1]))

    def _path(self, shard: int) -> Path:
        return self.folder / self.manifest.shards[shard].name

    def _descriptor(self, shard: int) -> int:
        """An open file; the one that was not used for longest is closed for it."""
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
        else:
            if len(self._descriptors) >= _OPEN_FILES:
                os.close(self._descriptors.popitem(last=False)[1])
            try:
                self._descriptors[shard] = os.open(self._path(shard), os.O_RDONLY)
            except FileNotFoundError:
                raise DataError(f"shard {self._path(shard)} has vanished. Restore it and run again.") from None
        return self._descriptors[shard]

    def _advice(self, row: int) -> str:
        name = self.manifest.shards[int(self.index.shard[row])].name
        return f"Restore {name} from a copy, or delete {self.folder} and make the set again."


def by_place(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order in which to read rows so that each file is passed through once, forwards."""
    return np.argsort(rows, kind="stable")
