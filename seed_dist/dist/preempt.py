"""Requests to stop: a signal only sets a flag, and the ranks agree on it between two steps.

A handler runs between any two bytecodes, perhaps in the middle of a collective, and ranks get the signal in different
steps. So nothing is saved or left there.

Whether the job is queued again afterwards is not decided here, because no signal tells: SLURM ends a job that is
cancelled and one that is pre-empted alike. The batch script asks the batch system (`slurm/common.sh`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from seed_dist.dist.deadline import Deadline

# SIGUSR1: `sbatch --signal=USR1@120`; SIGUSR2: submitit's.
EARLY_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
# SIGTERM: end of a job, pre-emption, torchrun's own way to stop its workers; SIGINT: Ctrl-C.
STOP_SIGNALS = (*EARLY_SIGNALS, signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """Raised between two pieces of work when a stop was asked for, by work that has nothing to save."""


class StopRequest:
    """Whether this process was asked to stop, or its job's time is nearly over, and by what."""

    def __init__(self, deadline: Deadline | None = None) -> None:
        self.reason: str | None = None
        self._deadline = deadline

    def __bool__(self) -> bool:
        if self.reason is None and self._deadline is not None and self._deadline.is_near():
            self.reason = "time limit"
        return self.reason is not None

    def save_took(self, seconds: float) -> None:
        """Tell how long a save took, so that the last one is begun in time."""
        if self._deadline is not None:
            self._deadline.save_took(seconds)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. The second Ctrl-C interrupts at once, for whoever does not want to wait."""
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextmanager
def stop_requests(
    deadline: Deadline | None = None, signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> Iterator[StopRequest]:
    """Collect stop signals while the block runs; earlier handlers are put back after it."""
    request = StopRequest(deadline)
    previous = {number: signal.signal(number, request.handle) for number in signals}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
