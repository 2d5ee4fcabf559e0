"""Steps made ahead by one thread, into memory that is used over and over.

A thread and not a process: the reads and the copies that they are run without the interpreter's lock, nothing has to
be sent anywhere, and there is no worker that could be killed alone. What cannot be done to a thread is to stop it, so
one that hangs in a read is left behind with its memory, named in a warning, and a new one makes the same step again.
A step depends on its number alone, so whichever thread makes it, it is the same.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from seed_dist.errors import DataError

S = TypeVar("S")  # the memory of a step
T = TypeVar("T")  # a step
ReadOf = Callable[[int], tuple[str, float] | None]

_ATTEMPTS = 3  # threads that may hang at one step
_LOOK_S = 0.5  # between looks at a reader that is waited for
_LOG = logging.getLogger("seed_dist")


@dataclass(frozen=True)
class Work(Generic[S, T]):
    """What the thread does: `make(step, slot)` fills a slot of `slots()`, the memory of all steps at once.

    `read_of` says what a thread is reading, and since when in `time.monotonic` seconds. A read that takes longer than
    `timeout_s` hangs; many slow ones do not.
    """

    make: Callable[[int, S], T]
    slots: Callable[[], Sequence[S]]
    read_of: ReadOf
    timeout_s: float


def prefetched(work: Work[S, T], first: int, last: int) -> Iterator[T]:
    """The steps first..last-1 in order. Each is valid until the next one is asked for.

    What `make` raises is raised here, at its step. DataError when the reads of a step hang again and again.
    """
    reader = _Reader(work, first, last)
    attempts = 1
    step = first
    try:
        while step < last:
            try:
                made = reader.wait()
            except _HangsError as error:
                place = f"step {step} is not read: {error}"
                if attempts == _ATTEMPTS:
                    raise DataError(
                        f"{place}. {attempts} attempts ended so; look at that disk or network, then start again: the "
                        "run goes on from its last checkpoint."
                    ) from None
                _LOG.warning("%s. A new reader takes over (attempt %d of %d).", place, attempts + 1, _ATTEMPTS)
                reader.leave()
                reader, attempts = _Reader(work, step, last), attempts + 1
                continue
            attempts = 1
            step += 1
            yield made.result
            reader.free.put(made.slot)
    finally:
        reader.leave()
        reader.join(timeout=work.timeout_s)


@dataclass(frozen=True)
class _Made(Generic[S, T]):
    """A step and its memory."""

    slot: S
    result: T


class _Reader(threading.Thread, Generic[S, T]):
    """One thread with memory of its own, which it takes along when it is left behind."""

    def __init__(self, work: Work[S, T], first: int, last: int) -> None:
        super().__init__(name=f"reader from step {first}", daemon=True)  # one that hangs must not keep the process
        self._work, self._steps = work, range(first, last)
        self.free: queue.SimpleQueue[S | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[_Made[S, T] | BaseException] = queue.SimpleQueue()
        for slot in work.slots():
            self.free.put(slot)
        self._is_left = False
        self.start()

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
        """Let the thread end after what it is doing; nobody waits for it."""
        self._is_left = True
        self.free.put(None)

    def _require_progress(self, began_s: float) -> None:
        """A read may be older than the wait for it, but only the wait costs anything."""
        place, since_s = self._work.read_of(self.ident or 0) or ("no file", began_s)
        hangs_s = time.monotonic() - max(since_s, began_s)
        if hangs_s >= self._work.timeout_s:
            raise _HangsError(f"its thread has been reading {place} for {hangs_s:.0f} s")


class _HangsError(Exception):
    """Where a thread hangs."""
