"""Position, counters, and randomness that is a function of the position."""

from __future__ import annotations

import random

import numpy as np
import torch

from seed_dist.train.state import TrainState, coins, derived_seed, seed_everything


def test_a_skipped_step_moves_on_and_is_counted() -> None:
    state = TrainState()
    for applied in (True, False, False, True, False):
        state.advance(applied, 8)
    assert state == TrainState(step=5, samples=40, skipped=3, skipped_in_a_row=1)
    assert TrainState.from_dict({**state.as_dict(), "engine": "other things in the file"}) == state


def test_seeds_are_fixed_for_ever_and_differ_by_every_part() -> None:
    assert derived_seed(0, "order", "abc") == 5559605631155698531
    seeds = {derived_seed(*parts) for parts in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 12), (0, 1, 2, ""))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_random_state_is_a_function_of_the_position() -> None:
    def draw(step: int, rank: int) -> tuple[float, float, float]:
        seed_everything(0, step, rank)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw(3, 0)
    others = [draw(4, 0), draw(3, 1)]
    assert draw(3, 0) == first
    assert all(a != b for other in others for a, b in zip(first, other, strict=True))


def test_a_samples_coin_does_not_depend_on_who_asks() -> None:
    ids = np.arange(20000, dtype=np.int64)
    whole = coins(ids, 5)
    assert np.array_equal(whole[7000:9000], coins(ids[7000:9000], 5))
    assert abs((whole < 0.3).mean() - 0.3) < 0.02
    assert abs(np.corrcoef(whole, coins(ids, 6))[0, 1]) < 0.03
    assert 0 <= whole.min() < whole.max() < 1
