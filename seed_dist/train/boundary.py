"""What the ranks tell each other between two steps: one small all-reduce on the host, so that all decide alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seed_dist.dist.comm import Comm
from seed_dist.errors import TrainingError


@dataclass(frozen=True)
class Boundary:
    """Equal on all ranks. `loss`: mean over ranks, not finite when any rank's is not. `stop`: some rank was asked to
    stop.
    """

    loss: float
    stop: bool


def meet(comm: Comm, step: int, loss: float, stop: bool) -> Boundary:
    """Exchange after `step` steps. TrainingError when the ranks are not at the same step.

    Sums in float64 carry everything: a flag is set when its sum is not 0, and the step, whose sums are exact, is the
    same everywhere exactly when the mean of its squares is the square of its mean.
    """
    total = comm.sum(torch.tensor([loss, stop, step, step * step], dtype=torch.float64)).tolist()
    mean = total[2] / comm.size
    if total[3] * comm.size != total[2] * total[2]:
        raise TrainingError(
            f"rank {comm.rank} has done {step} steps, but the mean over {comm.size} ranks is {mean:g}: one of them "
            "left out a collective. Start again: the run goes on from its newest checkpoint."
        )
    return Boundary(loss=total[0] / comm.size, stop=total[1] > 0)


def mean_loss(outputs: list[dict[str, Tensor]]) -> float:
    """Of this rank's micro-batches."""
    return float(torch.stack([part["loss"] for part in outputs]).double().mean())
