"""The learning rate as a pure function of the global step."""

from __future__ import annotations

import math

from seed_dist.config import TrainConfig


def learning_rate(training: TrainConfig, step: int) -> float:
    """Learning rate of the update that step `step` (from 0) makes.

    Linear from `warmup_start_lr` to `lr` over `warmup_steps`, then a cosine to `min_lr` at `steps` (the published
    schedule, by step instead of by epoch). The first update already moves and the last one still does. A step whose
    gradients were not finite keeps its place: the schedule follows the position in the data, so it is the same however
    often a run restarts.
    """
    if step < training.warmup_steps:
        share = (step + 1) / training.warmup_steps
        return training.warmup_start_lr + (training.lr - training.warmup_start_lr) * share
    share = min(1.0, (step - training.warmup_steps) / (training.steps - training.warmup_steps))
    return training.min_lr + (training.lr - training.min_lr) * (1 + math.cos(math.pi * share)) / 2
