"""Which samples a rank takes: the same global batches for every number of nodes, ranks and micro-batches, and after
every resume.
"""

from __future__ import annotations

import numpy as np
import pytest

from seed_dist.config import TrainConfig
from seed_dist.order import SampleOrder
from seed_dist.train.data import Ids, Order

# Nodes, ranks of each: all that divide 1536 samples.
WORLDS = ((1, 1), (1, 8), (2, 3), (4, 4), (3, 8), (8, 8), (16, 8), (12, 8), (32, 8), (64, 1), (64, 8))


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


def global_batch(samples: SampleOrder, training: TrainConfig, size: int, step: int) -> Ids:
    """What all ranks of a world take together, micro-batch by micro-batch, as an ordered list."""
    ranks = [Order(samples, training, rank, size).micro_batches(step) for rank in range(size)]
    return np.concatenate([np.concatenate(parts) for parts in zip(*ranks, strict=True)])


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_changes_its_world_at_every_resume_reads_every_sample_once(seed: int, accumulation: int) -> None:
    rng = np.random.default_rng([seed, accumulation])
    batch = 1536 * accumulation
    samples = SampleOrder(int(rng.integers(1, 3)) * batch + int(rng.integers(1, batch)), seed, int(rng.integers(1, 40)))
    training = TrainConfig(steps=100, global_batch=batch, accumulation=accumulation)
    steps = -(-2 * samples.samples // batch)
    straight = [global_batch(samples, training, 1, step) for step in range(steps)]
    for step in rng.permutation(steps):  # a start at any step knows nothing of the steps before
        nodes, ranks = WORLDS[int(rng.integers(len(WORLDS)))]
        assert np.array_equal(global_batch(samples, training, nodes * ranks, int(step)), straight[step])
    sent = np.concatenate([samples.batch(step, batch) for step in range(steps)])
    for step in range(steps):  # the same samples, in each micro-batch sorted
        assert np.array_equal(np.sort(straight[step]), np.sort(sent[step * batch : (step + 1) * batch]))
    for epoch in range(2):
        part = sent[epoch * samples.samples : (epoch + 1) * samples.samples]
        assert np.array_equal(np.sort(part), np.arange(samples.samples))
