"""Which samples a rank takes."""

from __future__ import annotations

import numpy as np

from seed_dist.config import TrainConfig
from seed_dist.order import SampleOrder
from seed_dist.train.data import Order


def test_micro_batches_are_the_same_for_every_number_of_ranks_and_in_the_order_of_the_disk() -> None:
    training = TrainConfig(steps=5, global_batch=24, accumulation=3)
    samples = SampleOrder(100, 9, 4)
    for step in (0, 4, 17):
        whole = [np.sort(part) for part in np.split(samples.batch(step, 24), 3)]
        for size in (1, 2, 4, 8):
            orders = [Order(samples, training, rank, size) for rank in range(size)]
            ranks = [order.micro_batches(step) for order in orders]
            assert {len(ids) for parts in ranks for ids in parts} == {orders[0].micro_batch}
            for micro in range(3):
                assert np.array_equal(np.concatenate([parts[micro] for parts in ranks]), whole[micro])
