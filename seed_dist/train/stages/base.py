"""What the training loop asks of a stage."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from seed_dist.config import Recipe, Remedy
from seed_dist.data.reader import Buffers
from seed_dist.dist.comm import Comm, on_main
from seed_dist.dist.engine import Engine
from seed_dist.errors import MismatchError
from seed_dist.models.code_usage import Usage
from seed_dist.models.coder import Coder
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.qformer import CausalQFormer
from seed_dist.order import rank_rows
from seed_dist.train.data import StageData
from seed_dist.train.state import coins, derived_seed

Ids = npt.NDArray[np.int64]
CAPTIONS_LOOKED_AT = 1000  # for words that the tokenizer does not know
_UNKNOWN_SHARE = 0.05
_LOG = logging.getLogger("seed_dist")


class Stage(nn.Module, ABC):
    """One stage's objective: a module whose parameters are what is trained and whose `forward` is the loss.

    Frozen backbones that made the cached features are not part of it. All methods but `make_batch` may communicate, so
    all ranks must call them together.
    """

    validation_batch = 128  # samples per forward pass
    without_decay: Collection[str] = ()  # names of parameters that weight decay leaves alone, besides biases and norms

    def __init__(self, recipe: Recipe, data: StageData, comm: Comm, micro_batch: int) -> None:
        super().__init__()
        self.recipe, self.data, self.comm = recipe, data, comm
        self.memory: dict[str, int] = {}  # replaced by the `stage_memory` of the position, so it is in checkpoints
        self.rows = rank_rows(micro_batch, comm.size)  # samples of every rank in a micro-batch of training

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and detached scalar metrics of one micro-batch. The mean over ranks is the global batch's."""

    @abstractmethod
    def make_batch(self, ids: Ids, step: int, out: Buffers | None = None) -> dict[str, Tensor]:
        """A micro-batch of training samples as CPU tensors, the stored features in `out` where it is given. Runs in a
        thread; a function of its arguments alone.
        """

    @abstractmethod
    def validate(self, batches: Iterable[Ids]) -> dict[str, float]:
        """Figures on the validation split, equal on all ranks. Called in eval mode without gradients. `batches`: this
        rank's samples, see `validation_batches`, without the empty.
        """

    @abstractmethod
    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write what the next stage and users load. Called on rank 0 only, with fp32 parameters."""

    def prepare(self) -> None:
        """Initialise from the data, when training starts from nothing. Before the optimizer copies the parameters."""
        return

    def after_step(self, engine: Engine, applied: bool) -> None:
        """Update what is not trained by gradient. `applied`: whether the step changed the parameters."""
        return

    def running_metrics(self) -> dict[str, float]:
        """Further figures for the journal, equal on all ranks; only called when a step is logged."""
        return {}

    def alarm(self) -> str | None:
        """What goes wrong though every number is finite, equal on all ranks; only called when a step is logged."""
        return None

    def collapsed(self) -> Usage | None:
        """Whether a window of steps has just ended in which hardly any code was used: a function of what is in a
        checkpoint, equal on all ranks. Asked for after steps that were applied.
        """
        return None

    def remedy(self, engine: Engine, remedy: Remedy) -> dict[str, float]:
        """Do about a collapse what the stage can do itself; the value are figures for the journal."""
        return {}

    def drawn_views(self, ids: Ids, step: int) -> Ids | None:
        """Which view [B] of each training sample a step takes: a function of (seed, id, step). None where all have
        one.
        """
        if self.data.train.views == 1:
            return None
        drawn = coins(ids, derived_seed(self.recipe.seed, "view", step)) * self.data.train.views
        return drawn.astype(np.int64)

    def training_captions(self, ids: Ids, step: int) -> list[str]:
        """One caption of each training sample; of several, another one at every pass, drawn as the order is: a function
        of seed, step and sample. (LAVIS makes a sample of each caption: the same pairs, the image read as often.)
        """
        drawn = coins(ids, derived_seed(self.recipe.seed, "caption", step))
        captions = [self.data.train.all_captions[i] for i in ids]
        return [of_image[int(coin * len(of_image))] for of_image, coin in zip(captions, drawn, strict=True)]

    def validation_batches(self) -> list[Ids]:
        """This rank's part of the validation samples, a forward pass at a time. All ranks have as many; the last may be
        empty.
        """
        count = min(len(self.data.val), self.validation_samples)
        own = np.array_split(np.arange(count, dtype=np.int64), self.comm.size)[self.comm.rank]
        starts = range(0, -(-count // self.comm.size), self.validation_batch)
        return [own[start : start + self.validation_batch] for start in starts]

    def share(self, loss: Tensor) -> Tensor:
        """A mean over this rank's samples, weighted so that its mean over ranks is the mean over all samples."""
        mean = sum(self.rows) / len(self.rows)
        own = self.rows[self.comm.rank]
        return loss if own == mean else loss * (own / mean)

    @property
    @abstractmethod
    def validation_samples(self) -> int:
        """How many validation samples are looked at."""


def warn_of_unknown_words(share: float, reference: str, comm: Comm) -> None:
    """Say that a tokenizer knows few of the captions' words: training runs, but on captions that say nothing."""
    if share > _UNKNOWN_SHARE:
        text = (
            f"{share:.0%} of the words of the training captions are unknown to {reference}: what they say is lost. "
            "Name a model that knows them in the recipe's backbones."
        )
        on_main(comm, lambda: _LOG.warning("%s", text))


def check_made_by(model: CausalQFormer | Coder, data: StageData, target: str) -> None:
    """MismatchError unless the features `target` were made by this exported model: after a new training of the stage
    before, features of the old weights must not be mixed with the new export."""
    expected = module_fingerprint(model, dataclasses.asdict(model.config))
    for features in (*data.train.views_of(target), *data.val.views_of(target)):
        found = features.manifest.details["weights_sha256"]
        if found != expected:
            raise MismatchError(
                f"fingerprint of the weights that made {features.folder}",
                found,
                expected,
                f"That is the current {type(model).__name__}. Delete those features and run data_prep/encode.py again.",
            )
