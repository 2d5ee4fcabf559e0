"""Which features a stage reads, and its samples in training order. Opened before anything heavy is imported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from seed_dist.config import Recipe, StageName, TrainConfig
from seed_dist.data.reader import PairedFeatures
from seed_dist.order import batch_ids, rank_slice

Ids = npt.NDArray[np.int64]
T = TypeVar("T")


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

    samples: int
    seed: int
    training: TrainConfig
    rank: int
    size: int

    def micro_batches(self, step: int) -> list[Ids]:
        """Sample numbers of this rank for each micro-batch of a step.

        The global batch is cut into micro-batches first and among the ranks second, so that the samples that meet in a
        micro-batch do not depend on the number of ranks.
        """
        ids = batch_ids(self.samples, self.seed, step, self.training.global_batch)
        return [rank_slice(part, self.rank, self.size) for part in np.split(ids, self.training.accumulation)]


def prefetched(make: Callable[[int], T], first: int, last: int) -> Iterator[T]:
    """`make(step)` for the steps first..last-1, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[T]] = deque()
        for step in range(first, last):
            ahead.append(pool.submit(make, step))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
