"""Signs of life of one rank: a few numbers in memory that another process of the node reads, see `watchdog`.

A beat is one `pack_into` into a mapped file of /dev/shm: no system call, no lock, nothing that could wait.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a rank is at, in the order of a run. `end`: all is done, and the process may leave.
PHASES = ("start", "load", "data", "forward", "backward", "step", "validate", "save", "export", "end")
_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
_SIZE_BYTES = 8192
_HEAD = struct.Struct("<dqq")  # seconds of CLOCK_MONOTONIC, steps done, phase. The time first: see `watchdog`
_DETAIL, _DETAIL_BYTES = _HEAD.size, 232  # length in two bytes, then UTF-8
# Row numbers of the samples of the last steps that were read, one slot per step: the reader is ahead of the loop.
_SLOTS, _SLOT_SAMPLES = 8, 64
_SLOT = struct.Struct(f"<qq{_SLOT_SAMPLES}q")  # step + 1 (0: never written), count, rows
_SAMPLES = _DETAIL + 2 + _DETAIL_BYTES


class Heartbeat:
    """The writing side."""

    def __init__(self, path: Path) -> None:
        self._memory = _map(path, is_new=True)
        self.beat("start", 0)

    def beat(self, phase: str, step: int) -> None:
        """This rank lives, is at `phase`, and has done `step` steps. About a microsecond."""
        _HEAD.pack_into(self._memory, 0, time.monotonic(), step, _NUMBER[phase])

    @property
    def place(self) -> tuple[str, int]:
        """Phase and step of the last beat."""
        _, step, phase = _HEAD.unpack_from(self._memory, 0)
        return PHASES[phase], step

    def detail(self, text: str) -> None:
        """What exactly the rank is at, for example a shard that it waits for; no sign of life."""
        content = text.encode(errors="replace")[:_DETAIL_BYTES]
        self._memory[_DETAIL : _DETAIL + 2 + len(content)] = struct.pack("<H", len(content)) + content

    def samples(self, step: int, rows: Sequence[int]) -> None:
        """Which rows of the training set this rank takes in a step (the first 64 of them)."""
        some = [int(row) for row in rows[:_SLOT_SAMPLES]]
        padding = [0] * (_SLOT_SAMPLES - len(some))
        _SLOT.pack_into(self._memory, _SAMPLES + step % _SLOTS * _SLOT.size, step + 1, len(rows), *some, *padding)


@dataclass(frozen=True)
class Beat:
    """The reading side: what the record said at one moment. `samples` are those of the step that is under way."""

    at_s: float
    step: int
    phase: str
    detail: str
    samples: tuple[int, ...]

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.at_s


class HeartbeatReader:
    """Maps a rank's record. It stays readable when the rank is dead."""

    def __init__(self, path: Path) -> None:
        self._memory = _map(path, is_new=False)

    def read(self) -> Beat:
        at_s, step, phase = _HEAD.unpack_from(self._memory, 0)
        length = struct.unpack_from("<H", self._memory, _DETAIL)[0]
        detail = bytes(self._memory[_DETAIL + 2 : _DETAIL + 2 + length]).decode(errors="replace")
        marked, count, *rows = _SLOT.unpack_from(self._memory, _SAMPLES + step % _SLOTS * _SLOT.size)
        samples = tuple(rows[: min(count, _SLOT_SAMPLES)]) if marked == step + 1 else ()
        return Beat(at_s, step, PHASES[phase], detail, samples)


def _map(path: Path, is_new: bool) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if is_new else 0), 0o600)
    try:
        if is_new:
            os.ftruncate(descriptor, _SIZE_BYTES)
        return mmap.mmap(descriptor, _SIZE_BYTES)
    finally:
        os.close(descriptor)
