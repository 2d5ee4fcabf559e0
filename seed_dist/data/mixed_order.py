"""The order of a mixture of sets: which sample of which set comes at each position of a run. Arithmetic, as
`seed_dist.order` is for one set.

The positions are cut into cycles. A cycle has a fixed number of places for each set, and a permutation that is keyed by
its number says which they are. The n-th place of a set in the whole run holds the n-th sample of that set's own
SampleOrder, which has epochs of its own. So a set comes as if it were trained on alone, each sample exactly once in
each of its epochs, and n is known at once: whole cycles times places in a cycle, and those before it in its own cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from seed_dist.mixture import CYCLE
from seed_dist.order import Ids, SampleOrder, permute


@dataclass(frozen=True)
class MixedOrder:
    """The order of several sets, of which number d has `counts[d]` places in every cycle of CYCLE positions.

    Samples are numbered through: those of set 0 first, then those of set 1, ... Pure: equal fields and arguments give
    equal numbers on every machine.
    """

    sets: tuple[SampleOrder, ...]
    counts: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        assert len(self.sets) == len(self.counts), f"{len(self.sets)} sets, but {len(self.counts)} counts"
        assert min(self.counts) > 0, f"counts of {self.counts}"
        assert sum(self.counts) == CYCLE, f"counts of {self.counts} make {sum(self.counts)}, not {CYCLE}"

    def batch(self, step: int, global_batch: int) -> Ids:
        """Sample numbers, int64 [global_batch], of global step `step` (from 0)."""
        assert step >= 0, f"step {step} is negative"
        assert global_batch > 0, f"a global batch of {global_batch}"
        return self.ids(np.arange(step * global_batch, (step + 1) * global_batch, dtype=np.int64))

    def ids(self, positions: Ids) -> Ids:
        """The sample at each of these positions of the run, int64 as they are."""
        ids = np.empty_like(positions)
        cycles, places = np.divmod(positions, CYCLE)
        for cycle in np.unique(cycles).tolist():
            chosen = cycles == cycle
            ids[chosen] = _cycle(self, cycle)[places[chosen]]
        return ids

    @property
    def window_samples(self) -> int:
        """Positions within which no set goes through more than a window of its order. Sets that are no larger than a
        window do not count, as they are read over and over anyway; where all are, one epoch of the slowest.
        """
        windows = [order.window_samples * CYCLE // count for order, count in zip(self.sets, self.counts, strict=True)]
        large = [w for order, w in zip(self.sets, windows, strict=True) if order.window_samples < order.samples]
        return min(large) if large else max(windows)


@lru_cache(maxsize=32)
def _cycle(order: MixedOrder, cycle: int) -> Ids:
    """The samples at the CYCLE positions of a cycle."""
    sets = np.searchsorted(np.cumsum(order.counts), permute(np.arange(CYCLE), CYCLE, order.seed, cycle), side="right")
    ids, first = np.empty(CYCLE, np.int64), 0
    for number, (own, count) in enumerate(zip(order.sets, order.counts, strict=True)):
        ids[sets == number] = first + own.ids(np.arange(cycle * count, (cycle + 1) * count, dtype=np.int64))
        first += own.samples
    return ids
