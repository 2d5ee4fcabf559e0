"""Which features a stage reads, and its samples in training order. Opened before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seed_dist.config import Recipe, StageName, TrainConfig
from seed_dist.data.mixed_features import MixedFeatures
from seed_dist.data.mixed_order import MixedOrder
from seed_dist.data.reader import PairedFeatures
from seed_dist.errors import ConfigError
from seed_dist.mixture import CYCLE, VALIDATION_SPLIT, DataConfig
from seed_dist.order import SampleOrder, block_samples, rank_rows, rank_slice

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StageData:
    """Training and validation features of a stage; `counts` are a mixture's, see `DataConfig.counts`."""

    train: PairedFeatures | MixedFeatures
    val: PairedFeatures
    counts: Mapping[str, int]

    @property
    def parts(self) -> dict[str, PairedFeatures]:
        """The training features by name of the split."""
        if isinstance(self.train, MixedFeatures):
            return self.train.parts
        return dict.fromkeys(self.counts, self.train)

    @property
    def parents(self) -> dict[str, str]:
        """Fingerprints of what the stage learns from and is validated on."""
        is_mixed = isinstance(self.train, MixedFeatures)
        train = {f"train.{split}" if is_mixed else "train": part.fingerprint for split, part in self.parts.items()}
        return {**train, "val": self.val.fingerprint}

    def composition(self, training: TrainConfig) -> dict[str, dict[str, float]]:
        """Of each split: its samples, its share of every cycle of the order, and how often all steps go through it."""
        drawn = training.steps * training.global_batch
        shares = {split: count / CYCLE for split, count in self.counts.items()}
        return {
            split: {"samples": len(part), "share": shares[split], "passes": drawn * shares[split] / len(part)}
            for split, part in self.parts.items()
        }

    def some_captions(self, count: int) -> list[str]:
        """About `count` training captions, as many of each split."""
        each = count // len(self.parts)
        return [caption for part in self.parts.values() for caption in part.captions[:each]]


def stage_targets(recipe: Recipe, stage: StageName) -> tuple[str, ...]:
    """Names of the feature sets that a stage reads."""
    if stage == "causal_qformer":
        return ("patches",)
    if stage == "codebook":
        return ("causal", recipe.codebook.generation_target)
    return ("codes",)


def open_data(recipe: Recipe, stage: StageName, work: Path) -> StageData:
    """The stage's features. ConfigError names all splits of a mixture that are not there or are one and the same,
    DataError or MismatchError the set that is not finished or does not fit, and what makes it.
    """
    targets, counts = stage_targets(recipe, stage), recipe.data.counts
    views = 1 if stage == "lora" else recipe.views
    if recipe.data != DataConfig():
        _require_splits(work, targets, recipe.data.counts)
    parts = {split: PairedFeatures(work, split, targets, views) for split in counts}
    val = PairedFeatures(work, VALIDATION_SPLIT, targets)
    if len(parts) == 1:
        return StageData(next(iter(parts.values())), val, counts)
    _require_different(parts, val)
    return StageData(MixedFeatures(parts), val, counts)


def _require_splits(work: Path, targets: Sequence[str], splits: Iterable[str]) -> None:
    problems = []
    for target in targets:
        folder = work / "features" / target
        known = sorted(path.name for path in folder.glob("*/"))
        problems += [
            f"data.mixture names {split!r}, but {folder} holds {', '.join(known) or 'nothing'}: name one of those, or "
            f"make it (data_prep/encode.py --target {target} --split {split})"
            for split in splits
            if split not in known
        ]
    if problems:
        raise ConfigError(problems)


def _require_different(parts: Mapping[str, PairedFeatures], val: PairedFeatures) -> None:
    """The same images under two names would be trained on twice as often, or be validated on."""
    problems = [
        f"data.mixture: {split!r} has no samples: leave it out" for split, part in parts.items() if not len(part)
    ]
    by_images: dict[str, list[str]] = {}
    for split, part in {**parts, VALIDATION_SPLIT: val}.items():
        images = next(iter(part.sets.values())).manifest.parents["images"]
        by_images.setdefault(images, []).append(split)
    problems += [
        f"data.mixture: {' and '.join(map(repr, splits))} hold the same images (fingerprint {images}): name one of them"
        for images, splits in by_images.items()
        if len(splits) > 1
    ]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class Order:
    """Which samples this rank takes in which step: arithmetic on the step number, see `seed_dist.order`."""

    samples: SampleOrder | MixedOrder
    training: TrainConfig
    rank: int
    size: int

    def micro_batches(self, step: int) -> list[Ids]:
        """Sample numbers of this rank for each micro-batch of a step.

        The global batch is cut into micro-batches first and among the ranks second, so that the samples that meet in a
        micro-batch do not depend on the number of ranks. A micro-batch is in the order of the disk: then a rank reads
        forwards, and through a whole window of the order from the same part of its blocks, so that nodes which keep
        what they read hardly keep the same.
        """
        ids = self.samples.batch(step, self.training.global_batch)
        return [rank_slice(np.sort(part), self.rank, self.size) for part in np.split(ids, self.training.accumulation)]

    @property
    def micro_batch(self) -> int:
        """Samples of this rank in one micro-batch."""
        return rank_rows(self.training.micro_batch, self.size)[self.rank]


def order_of(data: StageData, seed: int, training: TrainConfig, rank: int, size: int) -> Order:
    """The order in which the features are trained on; their size on disk decides what is shuffled together."""
    samples = tuple(
        SampleOrder(len(part), seed + number, block_samples(part.sample_bytes))
        for number, part in enumerate(data.parts.values())
    )
    if len(samples) == 1:
        return Order(samples[0], training, rank, size)
    # The cycles have a seed of their own: the next.
    mixed = MixedOrder(samples, tuple(data.counts[split] for split in data.parts), seed + len(samples))
    return Order(mixed, training, rank, size)
