"""Which samples a rank takes, and that reading ahead changes nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from seed_dist.config import TrainConfig
from seed_dist.order import batch_ids
from seed_dist.train.data import Order, prefetched


def test_micro_batches_are_the_same_sets_for_every_number_of_ranks() -> None:
    training = TrainConfig(steps=5, global_batch=24, accumulation=3)
    for step in (0, 4, 17):
        whole = np.split(batch_ids(100, 9, step, 24), 3)
        for size in (1, 2, 4, 8):
            ranks = [Order(100, 9, training, rank, size).micro_batches(step) for rank in range(size)]
            assert [len(parts) for parts in ranks] == [3] * size
            for micro in range(3):
                assert np.array_equal(np.concatenate([parts[micro] for parts in ranks]), whole[micro])


def test_reading_ahead_gives_every_step_once_in_order_from_another_thread() -> None:
    threads = set()

    def make(step: int) -> int:
        threads.add(threading.current_thread().name)
        return step * 10

    assert list(prefetched(make, 3, 9)) == [30, 40, 50, 60, 70, 80]
    assert threads == {"prefetch_0"}
    assert list(prefetched(make, 4, 4)) == []


def test_an_error_while_reading_arrives_at_its_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("torn shard")
        return step

    steps = prefetched(make, 0, 5)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="torn shard"):
        next(steps)
