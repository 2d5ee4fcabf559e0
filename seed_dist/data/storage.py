"""Where the bytes of a set's shards are: beside the manifest, or somewhere else behind a cache on this node.

Both show them as numbered files in which whole samples lie one behind the other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seed_dist.data.assembly import require_files
from seed_dist.data.index import Index
from seed_dist.data.manifest import Manifest
from seed_dist.data.remote import RemoteShards, load_remote
from seed_dist.errors import DataError

Rows = npt.NDArray[np.int64]


class Storage(Protocol):
    """The shards of one set."""

    @property
    def is_remote(self) -> bool:
        """Whether it is worth while to announce what will be read."""

    def arrange(self, index: Index) -> None:
        """Learn where the samples lie; before anything is read."""

    def file_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The number of the file that holds each row."""

    def start_of(self, files: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The byte of its shard with which each file begins."""

    def open(self, file: int) -> int:
        """A descriptor of a file, which the caller closes. DataError where it cannot be had."""

    def announce(self, rows: Rows) -> None:
        """Say which rows will be read."""

    def discard(self, file: int) -> bool:
        """Whether a damaged file was a copy, which is fetched anew when it is opened next."""

    def shard(self, number: int) -> str:
        """Path or URL of a shard, for messages."""


class LocalShards:
    """Shards beside their manifest: the files are the shards themselves."""

    is_remote = False

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """DataError names the first shard that is missing or of another size than the manifest says."""
        require_files(folder, manifest)
        self._paths = [folder / entry.name for entry in manifest.shards]

    def arrange(self, index: Index) -> None:
        self._index = index

    def file_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        files: Rows = self._index.shard[rows]
        return files

    def start_of(self, files: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.zeros_like(files)

    def open(self, file: int) -> int:
        try:
            return os.open(self._paths[file], os.O_RDONLY)
        except FileNotFoundError:
            raise DataError(f"shard {self._paths[file]} has vanished. Restore it and run again.") from None

    def announce(self, rows: Rows) -> None:
        """The kernel reads fast enough."""

    def discard(self, file: int) -> bool:
        return False

    def shard(self, number: int) -> str:
        return str(self._paths[number])


def open_storage(folder: Path, manifest: Manifest) -> Storage:
    """The shards of the finished set in `folder`. DataError where they are not as the manifest says."""
    remote = load_remote(folder)
    return LocalShards(folder, manifest) if remote is None else RemoteShards(manifest, remote)
