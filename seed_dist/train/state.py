"""What a run must remember between steps besides tensors, and randomness as a function of the position."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


@dataclass
class TrainState:
    """Position, counters, and what the detector of loss spikes remembers.

    `step` is the number of steps done, and the place in the data but for `batch_offset`, the batches left out so far.
    """

    step: int = 0
    samples: int = 0  # over all ranks
    skipped: int = 0  # steps whose gradients were not finite, in all
    skipped_in_a_row: int = 0
    batch_offset: int = 0
    rollbacks: int = 0
    odd_in_a_row: int = 0  # losses, see `train.spikes`
    recent_losses: list[float] = field(default_factory=list)
    stage_memory: dict[str, int] = field(default_factory=dict)  # what the stage itself remembers besides tensors
    validation_due: bool = False  # a stop has cut it short at this step

    @property
    def batch(self) -> int:
        """The global batch of the step that comes next."""
        return self.step + self.batch_offset

    def advance(self, applied: bool, samples: int) -> None:
        """One step is done; a skipped one also moves on in the data, so that its batch is not met again."""
        self.step += 1
        self.samples += samples
        self.validation_due = False  # after going back to where it was cut short, which it was not in the end
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """The reverse. What an older checkpoint does not have is as at the start; what is not known is passed over."""
        return cls(**{known.name: values[known.name] for known in dataclasses.fields(cls) if known.name in values})


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from any values; equal values give equal seeds on every machine."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(*parts: object) -> None:
    """Seed python, numpy and torch (all devices).

    Called before every step with (seed, step, rank): then the random state is a function of the position like the data
    order is, a resumed run draws what the uninterrupted one would have drawn, and no generator state has to be stored.
    """
    seed = derived_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Without CUDA, torch.manual_seed keeps a stack trace for the day it comes: half a millisecond each time.
    (torch.manual_seed if torch.backends.cuda.is_built() else torch.default_generator.manual_seed)(seed)


def coins(ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each sample id: a function of (id, seed) alone, so no matter which rank asks.

    SplitMix64's finalizer (Steele, Lea and Flood 2014) of the id plus the seed.
    """
    words = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))).astype(np.float64) / 2.0**64
