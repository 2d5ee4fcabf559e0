"""The order of the data: every sample once per epoch, the same batches whoever asks, and nothing but arithmetic."""

import subprocess
import sys

import numpy as np
import pytest

from seed_dist.errors import ConfigError
from seed_dist.order import WINDOW_BLOCKS, SampleOrder, block_samples, digest, permute, rank_rows, rank_slice

AWKWARD_SIZES = (1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 255, 1000, 4097)
WHOLE = 1 << 20  # samples in a block: small sets are shuffled as a whole


def batch_ids(samples, seed, step, global_batch, block=WHOLE):
    return SampleOrder(samples, seed, block).batch(step, global_batch)


def run(samples, seed, steps, global_batch):
    return np.concatenate([batch_ids(samples, seed, step, global_batch) for step in range(steps)])


@pytest.mark.parametrize("samples", AWKWARD_SIZES)
def test_each_epoch_is_a_permutation(samples):
    epochs = [permute(np.arange(samples), samples, 7, epoch) for epoch in range(5)]
    for ids in epochs:
        assert sorted(ids) == list(range(samples))
    if samples > 50:
        assert len({tuple(ids) for ids in epochs}) == 5
        assert not any((ids == np.arange(samples)).all() for ids in epochs)


@pytest.mark.parametrize(
    ("samples", "global_batch"), [(1, 1), (2, 3), (7, 3), (10, 10), (7, 20), (1000, 64), (130, 128)]
)
def test_every_sample_comes_once_per_epoch_although_batches_straddle(samples, global_batch):
    epochs = 3
    ids = run(samples, 1, -(-epochs * samples // global_batch), global_batch)
    for epoch in range(epochs):
        assert sorted(ids[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_a_straddling_batch_is_the_end_of_one_epoch_and_the_start_of_the_next():
    samples, global_batch = 10, 4
    batch = batch_ids(samples, 3, 2, global_batch)
    first, second = (permute(np.arange(samples), samples, 3, epoch) for epoch in (0, 1))
    assert list(batch) == [*first[8:], *second[:2]]


def test_a_batch_depends_on_its_step_alone():
    straight = [batch_ids(1000, 5, step, 96) for step in range(40)]
    backwards = [batch_ids(1000, 5, step, 96) for step in reversed(range(40))][::-1]
    assert all((a == b).all() for a, b in zip(straight, backwards, strict=True))
    assert batch_ids(1000, 5, 39, 96).dtype == np.int64


def test_the_global_batch_is_the_same_for_every_number_of_ranks():
    global_batch = 960
    whole = batch_ids(5000, 2, 11, global_batch)
    divided = 0
    for size in range(1, 65):
        parts = [rank_slice(batch_ids(5000, 2, 11, global_batch), rank, size) for rank in range(size)]
        assert (np.concatenate(parts) == whole).all()
        rows = rank_rows(global_batch, size)
        assert tuple(map(len, parts)) == rows
        assert max(rows) - min(rows) == (global_batch % size > 0)
        divided += max(rows) == min(rows)
    assert divided == 19  # the divisors of 960 up to 64


def test_seeds_and_epochs_give_unlike_orders():
    orders = [permute(np.arange(20_000), 20_000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        assert abs(np.corrcoef(np.arange(20_000), a)[0, 1]) < 0.03
        for b in orders[i + 1 :]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_small_permutations_are_all_equally_likely():
    seen = np.zeros(6, dtype=int)
    names = {(0, 1, 2): 0, (0, 2, 1): 1, (1, 0, 2): 2, (1, 2, 0): 3, (2, 0, 1): 4, (2, 1, 0): 5}
    for seed in range(3000):
        seen[names[tuple(int(i) for i in permute(np.arange(3), 3, seed, 0))]] += 1
    assert seen.sum() == 3000
    assert ((seen > 400) & (seen < 600)).all()  # 500 expected; five standard deviations


# (samples, block): several windows; a rest that fills no block; one block more or less than whole windows; blocks of 1.
FULL = 2 * WINDOW_BLOCKS * 4
WINDOWED = [(70_001, 7), (100_000, 16), (FULL, 4), (FULL - 1, 4), (FULL * 3 // 4 + 1, 3), (2000, 1), (300_003, 9)]


@pytest.mark.parametrize(("samples", "block"), WINDOWED)
def test_windows_of_blocks_hold_every_sample_once_per_epoch(samples, block):
    order = SampleOrder(samples, 3, block)
    epochs = [order.ids(np.arange(epoch * samples, (epoch + 1) * samples)) for epoch in range(2)]
    for ids in epochs:
        assert (np.sort(ids) == np.arange(samples)).all()
    assert not (epochs[0] == epochs[1]).any() or (epochs[0] == epochs[1]).mean() < 0.02
    parts = np.array_split(np.arange(2 * samples), 37)  # asked for in pieces of any size, it is the same
    assert (np.concatenate([order.ids(part) for part in parts]) == np.concatenate(epochs)).all()


def test_a_stretch_of_steps_reads_one_window_of_blocks():
    samples, block = 300_000, 16
    order = SampleOrder(samples, 3, block)
    window = order.window_samples
    assert WINDOW_BLOCKS * block * 0.7 < window < WINDOW_BLOCKS * block * 1.5
    ids = order.ids(np.arange(5 * window, 6 * window))
    touched = len(np.unique(ids // block))
    assert touched < 2.2 * window / block  # the blocks do not begin at multiples of 16
    shuffled_as_a_whole = permute(np.arange(window), samples, 3)
    assert len(np.unique(shuffled_as_a_whole // block)) > 5 * touched
    first = np.unique(order.ids(np.arange(window // 2)) // block)
    assert first.min() < 100 < samples // block - 100 < first.max()  # from all over the set


def test_a_node_reads_the_same_blocks_through_a_window():
    """Eight nodes that keep what they read keep hardly more than one copy of the data."""
    order, block = SampleOrder(300_000, 3, 16), 16
    window = order.window_samples
    steps = range(window // 256)
    kept = 0
    for rank in range(8):
        parts = [rank_slice(np.sort(order.batch(step, 256)), rank, 8) for step in steps]
        kept += len(np.unique(np.concatenate(parts) // block))
    everybody = len(np.unique(order.ids(np.arange(len(steps) * 256)) // block))
    assert kept < 2 * everybody


@pytest.mark.parametrize(("sample_bytes", "block"), [(51_200, 81), (723_712, 5), (64 << 20, 1)])
def test_a_block_is_as_many_samples_as_one_read_is_worth(sample_bytes, block):
    assert block_samples(sample_bytes) == block


def test_large_sets_need_no_table():
    for block in (WHOLE, 300):
        ids = batch_ids(5_000_000_000, 0, 123_456_789, 4096, block)
        assert len(set(ids.tolist())) == 4096
        assert ids.min() >= 0
        assert ids.max() < 5_000_000_000


def test_the_order_never_changes():
    """A run that was begun with an older version goes on with the same samples."""
    assert batch_ids(1000, 0, 0, 8).tolist() == EXPECTED_FIRST
    assert batch_ids(1000, 0, 124, 16).tolist() == EXPECTED_STRADDLING
    assert batch_ids(1_000_000, 0, 999, 8, 100).tolist() == EXPECTED_WINDOWED


EXPECTED_FIRST = [521, 637, 905, 795, 367, 824, 39, 806]
EXPECTED_STRADDLING = [362, 467, 616, 365, 136, 990, 23, 891, 373, 641, 778, 992, 648, 596, 697, 202]
EXPECTED_WINDOWED = [887753, 45378, 447914, 790254, 202285, 148316, 324890, 928710]


def test_another_process_gives_the_same_order():
    code = "from seed_dist.order import SampleOrder; print(SampleOrder(777, 9, 2).batch(20, 50).tolist())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == str(batch_ids(777, 9, 20, 50, 2).tolist())


@pytest.mark.parametrize(("samples", "global_batch"), [(0, 4), (4, 0)])
def test_nothing_to_batch_is_an_error(samples, global_batch):
    with pytest.raises(ConfigError, match="at least 1"):
        batch_ids(samples, 0, 0, global_batch)


def test_the_digest_of_a_step_is_the_sum_over_any_ranks_and_tells_every_change():
    ids = batch_ids(5000, 2, 11, 96)
    whole = [np.sort(part) for part in np.split(ids, 2)]
    for size in (1, 2, 3, 48):
        ranks = [[rank_slice(part, rank, size) for part in whole] for rank in range(size)]
        assert sum(digest(parts) for parts in ranks) % 2**64 == digest(whole)
    shifted = [np.sort(part) for part in np.split(batch_ids(5000, 2, 12, 96), 2)]
    other = whole[0].copy()
    other[5] += 1
    different = {digest(parts) for parts in (whole, shifted, whole[::-1], [other, whole[1]], [whole[0]])}
    assert len(different) == 5
    assert digest([np.array([3])]) == digest([np.array([3])]) < 2**64
