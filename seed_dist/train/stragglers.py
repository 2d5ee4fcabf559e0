"""Finds ranks that keep all others waiting: their disk, their processor or their host's load, see `OwnTime`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from types import TracebackType

from seed_dist.dist.comm import Comm

_COSTS = 0.2  # of a step: what a straggler must cost all ranks to be worth a word
_IN_A_ROW = 3  # logged steps; one slow read is no straggler


class OwnTime:
    """Seconds that this rank takes by itself, as the host sees them: inside `with` blocks, without the collectives.

    On a GPU that is reading, copying and launching kernels; one that computes slowly does not show here.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm, self._sum_s, self._began_s = comm, 0.0, 0.0

    def __enter__(self) -> None:
        self._began_s = time.perf_counter() - self._comm.waited_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sum_s += time.perf_counter() - self._comm.waited_s - self._began_s

    def take(self) -> float:
        """The sum since it was last taken."""
        taken, self._sum_s = self._sum_s, 0.0
        return taken


class Stragglers:
    """Ranks whose own time was `factor` times the others' median in several logged steps in a row."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._in_a_row: dict[int, int] = {}

    def newly_found(self, own_s: Sequence[float], step_s: float) -> list[int]:
        """`own_s`: of each rank in this step. Ranks that are slow now for the last time needed to be sure; each once,
        until it has been fast again.
        """
        found = []
        for rank, seconds in enumerate(own_s):
            others = [other for number, other in enumerate(own_s) if number != rank]
            usual = statistics.median(others) if others else seconds
            is_slow = seconds > self._factor * usual and seconds - usual > _COSTS * step_s
            self._in_a_row[rank] = self._in_a_row.get(rank, 0) + 1 if is_slow else 0
            if self._in_a_row[rank] == _IN_A_ROW:
                found.append(rank)
        return found
