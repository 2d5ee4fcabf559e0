"""The order of a mixture: shares are exact in every cycle, each set comes as if it were alone, and any position is
arithmetic.
"""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_dist.data.mixed_order import MixedOrder
from seed_dist.mixture import CYCLE, DataConfig, WeightedSplit
from seed_dist.order import WINDOW_BLOCKS, SampleOrder


def order_of(sizes: list[int], weights: list[float], seed: int = 3, block: int = 1 << 20) -> MixedOrder:
    splits = tuple(WeightedSplit(f"{number:02d}", weight) for number, weight in enumerate(weights))
    sets = tuple(SampleOrder(size, seed + number, block) for number, size in enumerate(sizes))
    return MixedOrder(sets, tuple(DataConfig(splits).counts.values()), seed + len(sizes))


def first_numbers(order: MixedOrder) -> list[int]:
    return np.cumsum([0, *(one.samples for one in order.sets)]).tolist()


MIXTURES = st.lists(st.tuples(st.integers(100, 9000), st.floats(0.05, 1)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(MIXTURES, st.integers(0, 5), st.sampled_from([2, 1 << 20]), st.integers(0, 2 * CYCLE - 1), st.integers(1, 5000))
def test_every_set_comes_as_if_it_were_alone(
    sets: list[tuple[int, float]], seed: int, block: int, start: int, length: int
) -> None:
    order = order_of([size for size, _ in sets], [weight for _, weight in sets], seed, block)
    ids, cycles = order.ids(np.arange(2 * CYCLE)), 2
    for number, (one, first) in enumerate(zip(order.sets, first_numbers(order), strict=False)):
        is_own = (ids >= first) & (ids < first + one.samples)
        assert is_own.reshape(cycles, CYCLE).sum(1).tolist() == [order.counts[number]] * cycles  # exact shares
        own = ids[is_own] - first
        assert np.array_equal(own, one.ids(np.arange(len(own))))  # in the order that it has by itself
        for epoch in range(len(own) // one.samples):  # each once per epoch
            part = own[epoch * one.samples : (epoch + 1) * one.samples]
            assert np.array_equal(np.sort(part), np.arange(one.samples))
    end = min(start + length, 2 * CYCLE)
    assert np.array_equal(order.ids(np.arange(start, end)), ids[start:end])  # whatever was asked for before


def test_one_set_is_ordered_as_without_a_mixture() -> None:
    order = order_of([70_001], [0.3], block=7)
    assert np.array_equal(order.batch(20, 1024), order.sets[0].batch(20, 1024))


def test_sets_are_mixed_within_a_cycle_and_cycles_differ() -> None:
    order = order_of([4000, 3000, 9000], [0.5, 0.2, 0.3])
    sets = np.searchsorted(first_numbers(order)[1:], order.ids(np.arange(20 * CYCLE)), side="right")
    for number, share in enumerate((0.5, 0.2, 0.3)):
        in_batches = (sets == number).reshape(-1, 500).mean(1)
        spread = np.sqrt(share * (1 - share) / 500 * (1 - 500 / CYCLE))  # drawing from a cycle without returning
        assert abs(in_batches.std() - spread) < 0.15 * spread
    assert 0.3 < (sets[:CYCLE] == sets[CYCLE : 2 * CYCLE]).mean() < 0.46  # by chance: 0.25 + 0.04 + 0.09
    other = order_of([4000, 3000, 9000], [0.5, 0.2, 0.3], seed=4)
    assert not np.array_equal(other.ids(np.arange(100)), order.ids(np.arange(100)))


def test_far_positions_of_large_sets_cost_nothing() -> None:
    order = order_of([5_000_000_000, 118_000, 25_000], [0.9, 0.07, 0.03], block=300)
    began_s = time.monotonic()
    ids = order.batch(123_456_789, 4096)
    assert time.monotonic() - began_s < 1
    assert ids.min() >= 0
    assert ids.max() < 5_000_143_000
    assert len(order.batch(3, CYCLE * 3 + 1)) == CYCLE * 3 + 1


def test_the_order_never_changes() -> None:
    """A run that was begun with an older version goes on with the same samples."""
    order = order_of([1000, 300, 50], [0.5, 0.2, 0.3])
    assert order.batch(0, 12).tolist() == EXPECTED_FIRST
    assert order.batch(833, 12).tolist() == EXPECTED_AT_A_CYCLES_END


EXPECTED_FIRST = [1107, 73, 1348, 759, 1301, 620, 306, 855, 21, 1016, 59, 830]
EXPECTED_AT_A_CYCLES_END = [1306, 1061, 934, 752, 594, 15, 1329, 1075, 1204, 1345, 327, 1308]


def test_the_window_is_that_of_the_large_set_that_is_through_it_first() -> None:
    large, block = 10 * WINDOW_BLOCKS * 4, 4
    order = order_of([large, large, 100], [0.5, 0.25, 0.25], block=block)
    assert order.window_samples == 2 * order.sets[0].window_samples
    assert order_of([1000, 100], [0.5, 0.5]).window_samples == 2000
