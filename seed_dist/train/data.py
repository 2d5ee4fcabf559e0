"""Which features a stage reads, and its samples in training order. Opened before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seed_dist.config import Recipe, StageName, TrainConfig
from seed_dist.data.reader import PairedFeatures
from seed_dist.order import SampleOrder, block_samples, rank_rows, rank_slice

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StageData:
    """Training and validation features of a stage."""

    train: PairedFeatures
    val: PairedFeatures

    @property
    def parents(self) -> dict[str, str]:
        """Fingerprints of what the stage learns from and is validated on."""
        return {"train": self.train.fingerprint, "val": self.val.fingerprint}


def stage_targets(recipe: Recipe, stage: StageName) -> tuple[str, ...]:
    """Names of the feature sets that a stage reads."""
    if stage == "causal_qformer":
        return ("patches",)
    if stage == "codebook":
        return ("causal", recipe.codebook.generation_target)
    return ("codes",)


def open_data(recipe: Recipe, stage: StageName, work: Path) -> StageData:
    """The stage's features; DataError or MismatchError names the set that is missing or does not fit, and what makes
    it.
    """
    targets = stage_targets(recipe, stage)
    views = 1 if stage == "lora" else recipe.views
    return StageData(PairedFeatures(work, "train", targets, views), PairedFeatures(work, "val", targets))


@dataclass(frozen=True)
class Order:
    """Which samples this rank takes in which step: arithmetic on the step number, see `seed_dist.order`."""

    samples: SampleOrder
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


def order_of(train: PairedFeatures, seed: int, training: TrainConfig, rank: int, size: int) -> Order:
    """The order in which the features are trained on; their size on disk decides what is shuffled together."""
    return Order(SampleOrder(len(train), seed, block_samples(train.sample_bytes)), training, rank, size)
