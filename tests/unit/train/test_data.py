"""Which samples a rank takes: the same global batches for every number of nodes, ranks and micro-batches, and after
every resume.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seed_dist.config import Recipe, TrainConfig, load_recipe
from seed_dist.data.manifest import load_manifest, write_manifest
from seed_dist.data.mixed_order import MixedOrder
from seed_dist.data.reader import PairedFeatures
from seed_dist.errors import ConfigError
from seed_dist.mixture import DataConfig, WeightedSplit
from seed_dist.obs.provenance import stage_identity
from seed_dist.order import SampleOrder, block_samples
from seed_dist.train.data import Ids, Order, open_data, order_of
from tests.features import write_features

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


def global_batch(samples: SampleOrder | MixedOrder, training: TrainConfig, size: int, step: int) -> Ids:
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


@pytest.mark.parametrize(("accumulation", "weights"), [(1, (0.5, 0.2, 0.3)), (3, (97, 1, 1, 1))])
def test_a_mixture_is_the_same_for_every_world_and_after_every_resume(
    accumulation: int, weights: tuple[float, ...]
) -> None:
    rng = np.random.default_rng([accumulation, len(weights)])
    counts = DataConfig(tuple(WeightedSplit(f"{n}", weight) for n, weight in enumerate(weights))).counts
    sets = tuple(SampleOrder(int(rng.integers(2000, 20_000)), n, int(rng.integers(1, 10))) for n in range(len(weights)))
    samples = MixedOrder(sets, tuple(counts.values()), 9)
    training = TrainConfig(steps=100, global_batch=1536 * accumulation, accumulation=accumulation)
    worlds = WORLDS[:7]
    steps = range(3, 3 + len(worlds))
    straight = {step: global_batch(samples, training, 1, step) for step in steps}
    for step, world in zip(rng.permutation(steps).tolist(), worlds, strict=True):
        nodes, ranks = world  # a start at any step knows nothing of the steps before
        assert np.array_equal(global_batch(samples, training, nodes * ranks, step), straight[step])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two splits to train on, one to validate on, and one that has the images of another."""
    for split, images, size in (("a", "a", 30), ("b", "b", 20), ("val", "val", 9), ("again", "a", 30)):
        folder = write_features(
            tmp_path, split, "codes", np.arange(size * 4, dtype=np.int32).reshape(-1, 4), ["c"] * size
        )
        manifest = load_manifest(folder)
        write_manifest(folder, dataclasses.replace(manifest, parents={"images": images}))
    return tmp_path


def mixed(*weights: str) -> Recipe:
    """The recipe of a mixture: "a=2" is a split and its weight."""
    parts = ", ".join(f"{{split: {split}, weight: {weight}}}" for split, weight in (w.split("=") for w in weights))
    return load_recipe("glyphs", [f"data.mixture=[{parts}]"])


def test_a_mixture_is_opened_with_all_its_parents(work: Path) -> None:
    recipe = mixed("b=1", "a=3")
    data = open_data(recipe, "lora", work)
    assert data.parents == {
        f"{name}": PairedFeatures(work, name.removeprefix("train."), ("codes",)).fingerprint
        for name in ("train.a", "train.b", "val")
    }
    identity = stage_identity(recipe, "lora", data.parents)
    assert identity["data.mixture"] == {"a": 7500, "b": 2500}
    assert identity["parents.train.b"] == data.parents["train.b"]
    training = TrainConfig(steps=100, global_batch=12)
    assert data.composition(training) == {
        "a": {"samples": 30, "share": 0.75, "passes": 30.0},
        "b": {"samples": 20, "share": 0.25, "passes": 15.0},
    }
    order = order_of(data, 5, training, 0, 1)
    ids = np.concatenate([order.samples.batch(step, 100) for step in range(100)])
    assert np.bincount(ids, minlength=50).tolist() == [250] * 30 + [125] * 20
    assert len(data.some_captions(10)) == 10
    assert open_data(mixed("a=3", "b=1"), "lora", work).parents == data.parents


def test_one_split_alone_is_as_it_always_was(work: Path) -> None:
    """Identity and order are those of a training without a mixture, whatever the split is called."""
    data = open_data(mixed("a=0.2"), "lora", work)
    assert isinstance(data.train, PairedFeatures)
    assert data.parents.keys() == {"train", "val"}
    assert "data.mixture" not in stage_identity(mixed("a=0.2"), "lora", data.parents)
    order = order_of(data, 5, TrainConfig(steps=1, global_batch=8), 0, 1)
    assert order.samples == SampleOrder(30, 5, block_samples(16))
    assert list(data.composition(TrainConfig(steps=15, global_batch=8))["a"].values()) == [30, 1.0, 4.0]


def test_splits_that_are_not_there_or_not_apart_are_all_named(work: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_data(mixed("c=1", "a=1", "d=1"), "lora", work)
    assert [problem.partition(" but ")[0] for problem in caught.value.problems] == [
        "data.mixture names 'c',",
        "data.mixture names 'd',",
    ]
    assert (
        "holds a, again, b, val: name one of those, or make it (data_prep/encode.py --target codes --split c)"
        in str(caught.value)
    )
    with pytest.raises(ConfigError, match=r"'a' and 'again' hold the same images \(fingerprint a\)"):
        open_data(mixed("again=1", "b=1", "a=1"), "lora", work)
    folder = work / "features/codes/val"
    write_manifest(folder, dataclasses.replace(load_manifest(folder), parents={"images": "b"}))
    with pytest.raises(ConfigError, match="'b' and 'val' hold the same images"):
        open_data(mixed("a=1", "b=1"), "lora", work)
