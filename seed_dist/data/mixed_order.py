"""The order of a mixture of sets: which sample of which set comes at each position of a run. Arithmetic, as
`seed_dist.order` is for one set.

The positions are cut into cycles. A cycle has a fixed number of places for each set, and a keyed permutation of its own
says which they are. So the place within a cycle gives the set; full cycles before it and places before it in its own
cycle give the position within the set's own order, which is a SampleOrder with epochs of its own. Therefore
the samples of a set come as if it were trained on alone: each exactly once in each of its epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from seed_dist.mixture import CYCLE
from seed_dist.order import Ids, SampleOrder, batch_positions, permute


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
        """Sample numbers, int64 [global_batch], of global step `step` (from 0). ConfigError for an empty batch."""
        return self.ids(batch_positions(step, global_batch))

    def ids(self, positions: Ids) -> Ids:
        """The sample at each of these positions of the run, int64 as they are."""
        sets, own = self._places(positions)
        ids, first = np.empty_like(positions), 0
        for number, order in enumerate(self.sets):
            chosen = sets == number
            ids[chosen] = first + order.ids(own[chosen])
            first += order.samples
        return ids

    @property
    def window_samples(self) -> int:
        """Positions within which no set goes through more than a window of its order. Sets that are smaller than a
        window do not count, because they are read over and over anyway; where all are, one epoch of the longest.
        """
        windows = [order.window_samples * CYCLE // count for order, count in zip(self.sets, self.counts, strict=True)]
        large = [window for order, window in zip(self.sets, windows, strict=True) if not order.is_one_window]
        return min(large) if large else max(windows)

    def _places(self, positions: Ids) -> tuple[Ids, Ids]:
        """The set of each position, and the position in that set's own order."""
        sets, own = np.empty_like(positions), np.empty_like(positions)
        cycles, places = np.divmod(positions, CYCLE)
        counts = np.array(self.counts)
        for cycle in np.unique(cycles).tolist():
            chosen = cycles == cycle
            of_cycle, before = _cycle(self.counts, self.seed, cycle)
            sets[chosen] = of_cycle[places[chosen]]
            own[chosen] = cycle * counts[sets[chosen]] + before[places[chosen]]
        return sets, own


@lru_cache(maxsize=32)
def _cycle(counts: tuple[int, ...], seed: int, cycle: int) -> tuple[Ids, Ids]:
    """The set of each place of a cycle, and how many places of the same set come before it: int64 [CYCLE] both."""
    ends = np.cumsum(counts)
    sets = np.searchsorted(ends, permute(np.arange(CYCLE), CYCLE, seed, cycle), side="right")
    before = np.empty(CYCLE, np.int64)
    before[np.argsort(sets, kind="stable")] = np.arange(CYCLE) - np.repeat(ends - counts, counts)
    return sets, before
