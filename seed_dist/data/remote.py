"""Shards that lie elsewhere, at any URL that fsspec knows, behind a cache on this node.

A set is remote when its folder holds `remote.json` beside manifest and index:

    {"url": "s3://bucket/features/causal/train", "cache": "/nvme/seed_dist", "cache_bytes": 200000000000}

Optional are `options`, the keywords of fsspec's file system. Shards are fetched in extents of whole samples, 4 MiB
each, by ranged reads; every sample is checked against its checksum when a process first reads it, so a damaged copy is
fetched anew and a damaged original is an error.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from dataclasses import field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from seed_dist.data.byte_cache import ByteCache
from seed_dist.data.index import Index
from seed_dist.data.manifest import REMOTE_NAME, Manifest
from seed_dist.errors import DataError

Rows = npt.NDArray[np.int64]

_CACHE_FOLDER = "seed_dist_extents"
_EXTENT_BYTES = 4 << 20  # a block of the order, see seed_dist.order
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5  # after the first failed attempt; twice as long after each further one
_FETCHERS = 4  # threads that fetch what was announced
_OTHER_FETCH_S = 30.0  # how long a thread that needs an extent waits for another that fetches it
_LOG = logging.getLogger("seed_dist")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Remote:
    """What `remote.json` says."""

    url: str
    cache: Path
    cache_bytes: int = Field(ge=4 * _EXTENT_BYTES)
    options: dict[str, Any] = field(default_factory=dict)


def load_remote(folder: Path) -> Remote | None:
    """Where the shards of a set are; None where they are in its folder. DataError names what is wrong in the file."""
    path = folder / REMOTE_NAME
    try:
        return TypeAdapter(Remote).validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise DataError(f"{path} cannot be used: {problems}. Correct it.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Correct it.") from None


class RemoteShards:
    """The files of this storage are extents. Threads may share it."""

    is_remote = True

    def __init__(self, manifest: Manifest, remote: Remote) -> None:
        self._names, self._remote = [entry.name for entry in manifest.shards], remote
        try:
            self._system, root = fsspec.core.url_to_fs(remote.url, **remote.options)
        except (ImportError, ValueError, TypeError) as error:
            raise DataError(
                f"{remote.url} cannot be opened: {error}. Correct url or options in {REMOTE_NAME}."
            ) from None
        self._root = root.rstrip("/")
        # In a folder of its own: the cache removes files.
        self._cache = ByteCache(remote.cache / _CACHE_FOLDER, remote.cache_bytes)
        self._prefix = manifest.fingerprint
        self._fetching: dict[int, threading.Event] = {}
        self._lock = threading.Lock()  # of `_fetching`
        self._announced: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._fetchers: list[threading.Thread] = []

    def arrange(self, index: Index) -> None:
        """Cut every shard into runs of as many whole samples as fill an extent."""
        firsts = []
        for begin, end in zip(index.first_row[:-1].tolist(), index.first_row[1:].tolist(), strict=True):
            size = int(index.offset[end - 1] + index.size[end - 1]) - int(index.offset[begin])
            rows = max(1, _EXTENT_BYTES * (end - begin) // max(1, size))
            firsts.append(np.arange(begin, end, rows, dtype=np.int64))
        self._first = np.concatenate(firsts) if firsts else np.empty(0, np.int64)
        last = np.append(self._first[1:], len(index)) - 1
        self._shard = index.shard[self._first]
        self._start, self._stop = index.offset[self._first], index.offset[last] + index.size[last]

    def file_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._first, rows, side="right").astype(np.int64) - 1

    def start_of(self, files: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._start[files]

    def open(self, file: int) -> int:
        """A descriptor of an extent's copy, fetched if need be. DataError when the remote side keeps failing."""
        size = int(self._stop[file] - self._start[file])
        while True:
            descriptor = self._cache.open(self._name(file), size)
            if descriptor is None and not self._is_fetched_by_another(file):
                self._fetch(file)
                descriptor = self._cache.open(self._name(file), size)
            if descriptor is not None:
                return descriptor

    def announce(self, rows: Rows) -> None:
        """Rows that will be read: threads fetch what the cache does not have, in the order of the calls."""
        for file in np.unique(self.file_of(rows)).tolist():
            self._announced.put(file)
        if not self._fetchers:
            self._fetchers = [threading.Thread(target=self._fetch_announced, daemon=True) for _ in range(_FETCHERS)]
            for thread in self._fetchers:
                thread.start()

    def discard(self, file: int) -> bool:
        self._cache.remove(self._name(file))
        return True

    def shard(self, number: int) -> str:
        return f"{self._remote.url.rstrip('/')}/{self._names[number]}"

    def _name(self, file: int) -> str:
        return f"{self._prefix}/{file:08d}"

    def _is_fetched_by_another(self, file: int) -> bool:
        """Wait for the thread that fetches this extent, if there is one; it may fail, so the caller looks again."""
        with self._lock:
            done = self._fetching.get(file)
            if done is None:
                return False
        if not done.wait(_OTHER_FETCH_S):
            with self._lock:
                self._fetching.pop(file, None)  # it hangs: fetch again
        return True

    def _fetch_announced(self) -> None:
        while True:
            file = self._announced.get()
            if (self._cache.folder / self._name(file)).exists() or file in self._fetching:
                continue
            try:
                self._fetch(file)
            except DataError as error:
                _LOG.warning("%s It is tried again when it is read.", error)

    def _fetch(self, file: int) -> None:
        """Copy an extent into the cache."""
        done = threading.Event()
        with self._lock:
            self._fetching[file] = done
        try:
            data = self._download(file)
            try:
                self._cache.add(self._name(file), data)
            except OSError as error:
                raise DataError(
                    f"the cache {self._remote.cache} takes no more: {error}. Make room on that disk, or lower "
                    f"cache_bytes in {REMOTE_NAME}."
                ) from error
        finally:
            done.set()
            with self._lock:
                self._fetching.pop(file, None)

    def _download(self, file: int) -> bytes:
        """The bytes of an extent, after as many attempts as it takes."""
        start, stop = int(self._start[file]), int(self._stop[file])
        shard = int(self._shard[file])
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                data: bytes = self._system.cat_file(f"{self._root}/{self._names[shard]}", start=start, end=stop)
            except FileNotFoundError:
                raise DataError(f"shard {self.shard(shard)} is not there. Copy it there, or correct the url.") from None
            except Exception as error:  # noqa: BLE001 - every file system has errors of its own
                problem = f"{type(error).__name__}: {error}"
                continue
            if len(data) == stop - start:
                return data
            problem = f"{len(data)} bytes came instead of {stop - start}"
        raise DataError(
            f"bytes {start} to {stop} of {self.shard(shard)} cannot be fetched in {_ATTEMPTS} attempts: {problem}. "
            "Look at the server, then run again."
        )
