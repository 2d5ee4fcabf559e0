"""Requests to stop: a signal only sets a flag, and the ranks agree on it between two steps.

A handler runs between any two bytecodes, perhaps in the middle of a collective, and ranks get the signal in different
steps. So nothing is saved or left there.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM: end of a job, torchrun's own way to stop its workers; SIGUSR1: `sbatch --signal=USR1@120`; SIGINT: Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop, and by what."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. The second Ctrl-C interrupts at once, for whoever does not want to wait."""
        if number == signal.SIGINT and self.signal_name == "SIGINT":
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect stop signals while the block runs; earlier handlers are put back after it."""
    request = StopRequest()
    previous = {number: signal.signal(number, request.handle) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
