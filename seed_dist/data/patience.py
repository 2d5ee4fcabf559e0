"""How long a source is waited for: reads happen in threads, and one that does not come back is left behind.

Nothing can end a read that hangs in the system, of a network disk whose server is gone. So its thread is given up and
another takes its place; what was asked for besides goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from seed_dist.errors import DataError

_IN_A_ROW = 8  # items that hang one after the other: that is no longer the items' fault
Value = TypeVar("Value")


@dataclass(frozen=True)
class Patience:
    """`timeout_s` seconds are given to each attempt at one picture or caption, and `retries` attempts after the first;
    `fetches` URLs are asked at once.
    """

    timeout_s: float = 30.0
    retries: int = 2
    fetches: int = 16

    def problems(self) -> list[str]:
        """What is wrong with the options, named as on the command line."""
        found = []
        if not self.timeout_s > 0:
            found.append(f"--timeout-s is {self.timeout_s:g}; more than 0 seconds are needed")
        if self.retries < 0:
            found.append(f"--retries is {self.retries}; 0 or more are needed")
        if self.fetches < 1:
            found.append(f"--fetches is {self.fetches}; at least 1 is needed")
        return found

    @property
    def in_words(self) -> str:
        attempts = f"{1 + self.retries} attempts of " if self.retries else ""
        return f"no answer in {attempts}{self.timeout_s:g} s"


def answers(path: Path, patience: Patience) -> bool:
    """Whether the beginning of a file can be read in time, if only to learn that it cannot be read."""
    with Lane(patience.timeout_s, patience.retries) as lane, suppress(OSError):
        try:
            lane.call(str(path), partial(_first_byte, path))
        except HungError:
            return False
    return True


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


class HungError(Exception):
    """An item did not come in the time that it has."""


class Task(Generic[Value]):
    """One read, done or still to be done."""

    def __init__(self, name: str, read: Callable[[], Value]) -> None:
        self.name, self._read = name, read
        self.done = threading.Event()
        self._outcome: tuple[Value] | BaseException | None = None
        self.given_up: threading.Event | None = None  # of the thread that is at it

    def run(self) -> None:
        try:
            self._outcome = (self._read(),)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            self._outcome = error
        self.done.set()

    def again(self) -> Task[Value]:
        return Task(self.name, self._read)

    def value(self) -> Value:
        outcome = self._outcome
        if isinstance(outcome, tuple):
            return outcome[0]
        assert outcome is not None, "asked only when it is done"
        raise outcome


class Lane:
    """`threads` threads that read what is submitted, in that order. Ask for results in the order of submission: then
    whatever is waited for has begun.

    An item has `limit_s` seconds, and `retries` further attempts, each by a new thread. Use as a context.
    """

    def __init__(self, limit_s: float, retries: int = 0, threads: int = 1) -> None:
        self._limit_s, self._retries, self._threads = limit_s, retries, threads
        self._queue: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._hired = self._in_a_row = 0

    def __enter__(self) -> Lane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(self._hired):
            self._queue.put(None)

    def submit(self, name: str, read: Callable[[], Value]) -> Task[Value]:
        """Have something read; `name` says what, for people."""
        if self._hired < self._threads:
            self._hire()
        task = Task(name, read)
        self._queue.put(task)
        return task

    def result(self, task: Task[Value]) -> Value:
        """What was read, or the error. HungError where it never came, DataError where nothing comes any more."""
        for attempt in range(1 + self._retries):
            if task.done.wait(self._limit_s):
                self._in_a_row = 0
                return task.value()
            if task.given_up is not None:
                task.given_up.set()
            if attempt == 0:
                self._hire()  # for those that wait behind it
            if attempt < self._retries:
                task = task.again()
                threading.Thread(target=task.run, name="read", daemon=True).start()
        self._in_a_row += 1
        if self._in_a_row == _IN_A_ROW:
            raise DataError(
                f"{_IN_A_ROW} items in a row did not come, the last of them {task.name}: the disk or the server behind "
                "it hangs. What was finished is intact: run the same command again when it answers, or give it more "
                "time by --timeout-s."
            )
        raise HungError(task.name)

    def call(self, name: str, read: Callable[[], Value]) -> Value:
        """Read something now; raises as `result`."""
        return self.result(self.submit(name, read))

    def _hire(self) -> None:
        self._hired += 1
        threading.Thread(target=self._work, name="read", daemon=True).start()

    def _work(self) -> None:
        given_up = threading.Event()
        while not given_up.is_set() and (task := self._queue.get()) is not None:
            task.given_up = given_up
            task.run()
