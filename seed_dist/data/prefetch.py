"""Steps made ahead by two threads, into memory that is used over and over.

Threads and not processes: the reads and their copies run without the interpreter's lock, nothing has to be sent
anywhere, and there is no worker that could be killed alone. Two, because a core copies less than the memory gives.
What cannot be done to a thread is to stop it, so one that hangs in a read is left behind with its memory, named in a
warning, and a new one makes the same step again. A step depends on its number alone, so whichever thread makes it, it
is the same.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from seed_dist.errors import DataError

S = TypeVar("S")  # the memory of a step
T = TypeVar("T")  # a step

READERS = 2  # each makes every second step
_ATTEMPTS = 3  # threads that may hang at one step
_JOIN_S = 2.0  # for readers at the end; one that hangs keeps its memory to itself
_LOOK_S = 0.5  # between looks at a thread that is waited for
_LOG = logging.getLogger("seed_dist")


@dataclass(frozen=True)
class Work(Generic[S, T]):
    """What a thread does: `make(step, slot)` fills a slot of `slots()`, the memory of its steps; two call it at a time.

    `read_of` says what a thread is reading, and since when in `time.monotonic` seconds. A read that takes longer than
    `timeout_s` hangs; many slow ones do not.
    """

    make: Callable[[int, S], T]
    slots: Callable[[], Sequence[S]]
    read_of: Callable[[int], tuple[str, float] | None]
    timeout_s: float


def prefetched(work: Work[S, T], first: int, last: int) -> Generator[T, None, None]:
    """The steps first..last-1 in order. Each is valid until the next is asked for; ahead are as many as have memory.

    What `make` raises is raised here, at its step. DataError when the reads of a step hang again and again.
    """
    readers = [_Reader(work, range(step, last, READERS)) for step in range(first, first + READERS)]
    try:
        for step in range(first, last):
            number = (step - first) % READERS
            readers[number], made = _wait(readers[number], step)
            yield made.result
            readers[number].free.put(made.slot)
    finally:
        for reader in readers:
            reader.leave()
        for reader in readers:
            reader.join(timeout=min(_JOIN_S, work.timeout_s))


@dataclass(frozen=True)
class _Made(Generic[S, T]):
    """A step and its memory."""

    slot: S
    result: T


def _wait(reader: _Reader[S, T], step: int) -> tuple[_Reader[S, T], _Made[S, T]]:
    """The next step, and the reader that made it: another takes over from one that hangs."""
    hangs = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            _LOG.warning("step %d: %s. A new reader takes over (attempt %d of %d).", step, hangs, attempt, _ATTEMPTS)
            reader.leave()
            reader = reader.successor(step)
        try:
            return reader, reader.wait()
        except _HangsError as error:
            hangs = str(error)
    reader.leave()
    raise DataError(
        f"step {step}: {hangs}, and {_ATTEMPTS - 1} readers before it hung too. Look at that disk or network, then "
        "start again: the run goes on from its last checkpoint."
    )


class _Reader(threading.Thread, Generic[S, T]):
    """One thread with memory of its own, which it takes along when it is left behind."""

    def __init__(self, work: Work[S, T], steps: range) -> None:
        super().__init__(name=f"reader from step {steps.start}", daemon=True)  # that hangs must not keep the process
        self._work, self._steps, self._is_left = work, steps, False
        self.free: queue.SimpleQueue[S | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[_Made[S, T] | BaseException] = queue.SimpleQueue()
        for slot in work.slots():
            self.free.put(slot)
        self.start()

    def successor(self, step: int) -> _Reader[S, T]:
        """A new thread for its steps from `step` on."""
        return _Reader(self._work, range(step, self._steps.stop, READERS))

    def run(self) -> None:
        try:
            for step in self._steps:
                slot = self.free.get()
                if slot is None or self._is_left:
                    return
                self._made.put(_Made(slot, self._work.make(step, slot)))
        except BaseException as error:  # noqa: BLE001 - raised where the step is asked for
            self._made.put(error)

    def wait(self) -> _Made[S, T]:
        """The next step; _HangsError says in which read the thread hangs."""
        began_s = time.monotonic()
        while True:
            try:
                made = self._made.get(timeout=min(_LOOK_S, self._work.timeout_s))
            except queue.Empty:
                self._require_progress(began_s)
                continue
            if isinstance(made, BaseException):
                raise made
            return made

    def leave(self) -> None:
        """Let the thread end after what it is doing."""
        self._is_left = True
        self.free.put(None)

    def _require_progress(self, began_s: float) -> None:
        """A read may be older than the wait for it, but only the wait costs anything."""
        place, since_s = self._work.read_of(self.ident or 0) or ("no file", began_s)
        hangs_s = time.monotonic() - max(since_s, began_s)
        if hangs_s >= self._work.timeout_s:
            raise _HangsError(f"the {self.name} has been reading {place} for {hangs_s:.1f} s")


class _HangsError(Exception):
    """Where a thread hangs."""
