"""How much memory a command and all processes that it starts take together, at most."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_SAMPLE_EVERY_S = 1.0


class PeakMemory:
    """The largest sum seen so far, in bytes; a lower bound, because between two looks nobody looks."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def look(self, process: psutil.Process) -> None:
        """Memory of the process and everything below it; shared pages are counted once (proportional set size)."""
        total = 0
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_full_info().pss
            except psutil.Error:  # ended since it was listed, or another user's
                continue
        self.size_bytes = max(self.size_bytes, total)


@contextmanager
def watched_memory() -> Iterator[PeakMemory]:
    """Look at this process and its children once a second while the block runs."""
    peak, done, own = PeakMemory(), threading.Event(), psutil.Process()

    def watch() -> None:
        while True:
            peak.look(own)
            if done.wait(_SAMPLE_EVERY_S):
                return

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
