"""A process that another one follows until it ends, without asking again and again whether it lives."""

from __future__ import annotations

import os
import select
import time

import psutil

_LOOK_EVERY_S = 1.0


class Followed:
    """`process`: its number. The kernel wakes whoever waits here when it ends; before Linux 5.3 it is looked at once a
    second.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        try:
            self._pidfd: int | None = os.pidfd_open(process)
        except (AttributeError, OSError):
            self._pidfd = None

    def lives(self) -> bool:
        """A process that has ended and waits for its parent does not."""
        if self._pidfd is not None:
            return not select.select([self._pidfd], [], [], 0)[0]
        try:
            return bool(psutil.Process(self._process).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def wait(self, timeout_s: float, *others: int) -> list[int]:
        """Until it has ended, at most so long, or until some of these files can be read: the value."""
        if self._pidfd is not None:
            readable = select.select([self._pidfd, *others], [], [], max(0.0, timeout_s))[0]
            return [file for file in readable if file != self._pidfd]
        end_s = time.monotonic() + timeout_s
        while self.lives() and (left_s := end_s - time.monotonic()) > 0:
            if readable := select.select(others, [], [], min(_LOOK_EVERY_S, left_s))[0]:
                return list(readable)
        return []
