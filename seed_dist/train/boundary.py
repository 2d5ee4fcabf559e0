"""What the ranks tell each other between two steps: one small all-reduce on the host, so that all decide alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seed_dist.dist.checkpoint_saver import Flags
from seed_dist.dist.comm import Comm
from seed_dist.errors import TrainingError


class Boundary(NamedTuple):
    """Equal on all ranks. `loss`: mean over ranks, not finite when any rank's is not. `stop`: some rank was asked to
    stop. `saving`: how some rank's part of the save under way fares.
    """

    loss: float
    stop: bool
    saving: Flags


def meet(comm: Comm, step: int, loss: float, stop: bool, saving: Flags) -> Boundary:
    """Exchange after `step` steps. TrainingError when the ranks are not at the same step.

    Sums in float64 carry everything: a flag is set when its sum is not 0, and the step, whose sums are exact, is the
    same everywhere exactly when the mean of its squares is the square of its mean.
    """
    total = comm.sum(torch.tensor([loss, step, step * step, stop, *saving], dtype=torch.float64)).tolist()
    mean = total[1] / comm.size
    if total[2] * comm.size != total[1] * total[1]:
        raise TrainingError(
            f"rank {comm.rank} has done {step} steps, but the mean over {comm.size} ranks is {mean:g}: one of them "
            "left out a collective. Start again: the run goes on from its newest checkpoint."
        )
    stopping, *flags = (value > 0 for value in total[3:])
    return Boundary(total[0] / comm.size, stopping, Flags(*flags))


def mean_loss(outputs: list[dict[str, Tensor]]) -> float:
    """Of this rank's micro-batches."""
    return float(torch.stack([part["loss"] for part in outputs]).double().mean())
