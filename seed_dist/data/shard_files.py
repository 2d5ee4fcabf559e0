"""Reads payloads out of the tars of a finished set, by number, and checks each against its checksum at first touch.

What is touched first, or is not in the page cache, is read with `preadv`, neighbours with one call; what was right
before is copied out of maps, a whole batch with few calls. Either way a file that was cut, or a disk that fails, gives
an error that names the sample, where touching a map would kill the process (SIGBUS).
"""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32  # the CRC-32 of zlib, some twenty times as fast

from seed_dist.data.index import Index
from seed_dist.data.manifest import load_manifest
from seed_dist.data.mapping import MappedFile, copy_pieces
from seed_dist.data.storage import open_storage
from seed_dist.errors import DataError, MismatchError

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

# Of one set, which takes a quarter of the system's limit at most. Fewer copies of what lies elsewhere: the cache may
# have removed them, and they take their 4 MiB of the disk for as long as they are open.
_OPEN_FILES = 4096
_OPEN_COPIES = 256
_RUN_ROWS = 256  # read with one call: three buffers each, and the kernel takes 1024
_GAP_BYTES = 4096  # between two payloads: a tar header and padding
_MAPPED_BYTES = 1 << 18  # of a sample; a larger one comes faster with a call of its own
_COLD_READS = 1000  # without maps, after the page cache turned out not to hold what was wanted


class ShardFiles:
    """An open set of one kind. Threads may share it and read at the same time."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        if self.manifest.kind != kind:
            raise MismatchError(f"kind of {folder}", self.manifest.kind, kind, "Give the folder of a set of that kind.")
        self._storage, self.index = open_storage(folder, self.manifest), Index(folder, self.manifest)
        self._storage.arrange(self.index)
        self._checked = np.zeros(len(self.index), dtype=bool)
        self._gap = memoryview(bytearray(_GAP_BYTES))  # never looked at, so threads may share it
        self._cold_reads = 0  # that are still to be done without maps
        self._open: OrderedDict[int, MappedFile] = OrderedDict()
        self._lock = threading.Lock()  # of changes to the open files, never held during a call that can hang
        self._reads: dict[int, tuple[int, float]] = {}  # by thread: the row, and when its read began

    def read_rows(self, rows: Rows, skip: int, out: Bytes) -> None:
        """Fill `out` [B, size - skip] with the payloads of `rows` [B], all of one size, without their first `skip`
        bytes. Files are passed through forwards, neighbours at once. DataError if a sample is not intact.
        """
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        rest = ~self._checked[rows]
        known = np.flatnonzero(~rest)
        rest[known[self._copy(rows[known], skip, out, order[known]) :]] = True
        if rest.any():
            self._read(self._plan(rows[rest], skip, [out[place] for place in order[rest].tolist()]))

    def read(self, row: int) -> bytearray:
        """The payload of a row. DataError if it is not intact."""
        data = bytearray(int(self.index.size[row]))
        self._read(self._plan(np.array([row]), 0, [data]))
        return data

    @property
    def is_remote(self) -> bool:
        """Whether it is worth while to announce what will be read."""
        return self._storage.is_remote

    def announce(self, rows: Rows) -> None:
        """Say which rows will be read: those that lie elsewhere are fetched by threads, in the order of the calls."""
        self._storage.announce(rows)

    def place(self, row: int) -> str:
        """Which sample of which file, for messages."""
        return f"sample {self.index.keys[row]} in {self._storage.shard(int(self.index.shard[row]))}"

    def shard_rows(self, number: int) -> range:
        """The rows that a shard holds."""
        return range(int(self.index.first_row[number]), int(self.index.first_row[number + 1]))

    def read_of(self, thread: int) -> tuple[str, float] | None:
        """What a thread is reading now, and since when in `time.monotonic` seconds; None between reads."""
        read = self._reads.get(thread)
        if read is None:
            return None
        row, began_s = read
        return f"{self._storage.shard(int(self.index.shard[row]))} at byte {int(self.index.offset[row])}", began_s

    def _copy(self, rows: Rows, skip: int, out: Bytes, places: Rows) -> int:
        """How many of these ascending rows, whose checksums were right before, were copied into their places of `out`.
        The others are to be read.
        """
        size = out.shape[1]
        if self._cold_reads or size > _MAPPED_BYTES or not len(rows):
            self._cold_reads -= bool(self._cold_reads)
            return 0
        files = self._storage.file_of(rows)
        firsts = np.flatnonzero(np.diff(files, prepend=-1))
        with self._reading(int(rows[0])):
            opened = [self._file(file) for file in files[firsts].tolist()]  # mapped for as long as they are held here
            spans = np.diff(firsts, append=len(rows))
            begins = self.index.offset[rows] - self._storage.start_of(files) + skip
            bases = np.repeat([file.address for file in opened], spans)
            ends = np.repeat([file.size_bytes for file in opened], spans)
            if not bases.all() or (begins + size > ends).any():
                return 0
            copied, is_cold = copy_pieces(bases + begins, out.ctypes.data + places * size, size)
            self._cold_reads = _COLD_READS * is_cold
            return copied if all(file.is_whole() for file in opened) else 0

    def _plan(self, rows: Rows, skip: int, parts: list[Any]) -> _Plan:
        """All that is known of ascending rows is looked up at once: one by one it would take longer than reading."""
        index = self.index
        files, begins = self._storage.file_of(rows), index.offset[rows]
        ends = begins + index.size[rows]
        gaps = begins[1:] - ends[:-1]
        is_next = (np.diff(rows) == 1) & (np.diff(files) == 0) & (gaps >= 0) & (gaps + skip <= _GAP_BYTES)
        cuts = [0, *(np.flatnonzero(~is_next) + 1).tolist(), len(rows)] if len(rows) else []
        is_checked = self._checked[rows]
        heads = [None if known else bytearray(skip) for known in is_checked.tolist()]
        starts = begins + skip * is_checked
        return _Plan(
            rows=rows.tolist(),
            files=files.tolist(),
            offsets=(starts - self._storage.start_of(files)).tolist(),
            sizes=(ends - starts).tolist(),
            heads=heads,
            parts=parts,
            cuts=cuts,
        )

    def _read(self, plan: _Plan) -> None:
        for begin, end in zip(plan.cuts, plan.cuts[1:], strict=False):
            for first in range(begin, end, _RUN_ROWS):
                with self._reading(plan.rows[first]):
                    self._read_run(plan, first, min(first + _RUN_ROWS, end))

    @contextmanager
    def _reading(self, row: int) -> Iterator[None]:
        thread = threading.get_ident()
        self._reads[thread] = row, time.monotonic()
        try:
            yield
        finally:
            self._reads.pop(thread, None)

    def _read_run(self, plan: _Plan, first: int, last: int) -> None:
        """Neighbours with one call. If anything is wrong they are read singly, so that the error names one."""
        try:
            self._call(plan, first, last)
        except _DamagedError:
            if last - first == 1:
                self._read_again(plan, first)
                return
            for number in range(first, last):
                self._read_run(plan, number, number + 1)

    def _read_again(self, plan: _Plan, number: int) -> None:
        """A copy in a cache may be damaged while the original is not."""
        file, row = plan.files[number], plan.rows[number]
        if self._storage.discard(file):
            with self._lock:
                self._open.pop(file, None)
        try:
            self._call(plan, number, number + 1)
        except _DamagedError as error:
            raise DataError(f"{self.place(row)} {error}. {self._advice(row)}") from None

    def _call(self, plan: _Plan, first: int, last: int) -> None:
        wanted = plan.offsets[last - 1] + plan.sizes[last - 1] - plan.offsets[first]
        file = self._file(plan.files[first])  # open for as long as it is held here
        try:
            found = os.preadv(file.number, self._buffers(plan, first, last), plan.offsets[first])
        except OSError as error:
            raise _DamagedError(f"cannot be read: {error.strerror}") from None
        if found != wanted:
            raise _DamagedError(f"ends after {found} of {wanted} bytes")
        for number in range(first, last):
            if (head := plan.heads[number]) is not None:
                self._check(plan.rows[number], crc32(plan.parts[number], crc32(head)))

    def _buffers(self, plan: _Plan, first: int, last: int) -> list[Any]:
        """Memory for the bytes of a run from its first wanted one to its end; what nobody wants goes into the gap."""
        buffers: list[Any] = []
        position = plan.offsets[first]
        for number in range(first, last):
            if (wanted := plan.offsets[number]) > position:
                buffers.append(self._gap[: wanted - position])
            if (head := plan.heads[number]) is not None:
                buffers.append(head)
            buffers.append(plan.parts[number])
            position = wanted + plan.sizes[number]
        return buffers

    def _check(self, row: int, checksum: int) -> None:
        expected = int(self.index.checksum[row])
        if checksum != expected:
            raise _DamagedError(f"has checksum {checksum:08x}, but {expected:08x} was written: it is damaged")
        self._checked[row] = True

    def _file(self, number: int) -> MappedFile:
        """An open file; the one that was opened first is closed for it, once nobody reads it any more."""
        if (known := self._open.get(number)) is not None:
            return known
        file = MappedFile(self._opened(number))
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # not asked once: training raises the limit
        most = min(_OPEN_FILES, allowed, _OPEN_COPIES if self.is_remote else _OPEN_FILES)
        with self._lock:
            while len(self._open) >= most:
                self._open.popitem(last=False)
            self._open[number] = file
        return file

    def _opened(self, number: int) -> int:
        """Where many sets are open together the limit may come earlier: then this set makes room."""
        while True:
            try:
                return self._storage.open(number)
            except OSError as error:
                with self._lock:
                    if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                        raise
                    self._open.popitem(last=False)

    def _advice(self, row: int) -> str:
        name = self.manifest.shards[int(self.index.shard[row])].name
        return f"Restore {name} from a copy, or delete {self.folder} and make the set again."


@dataclass(frozen=True)
class _Plan:
    """Ascending rows and where they go. Of each: its number, its file, where in the file what is read of it lies and
    how long it is in bytes, memory for what comes before the wanted part (None where the checksum is known to be right:
    then that is not read), and memory for the wanted part.
    """

    rows: list[int]
    files: list[int]
    offsets: list[int]
    sizes: list[int]
    heads: list[bytearray | None]
    parts: list[Any]
    cuts: list[int]  # the first rows of runs that lie one behind the other in one file, and the end


class _DamagedError(Exception):
    """What is wrong with the bytes that were read."""
