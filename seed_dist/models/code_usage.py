"""Which codes were used lately: exact counts over a window of global batches, and for how long each code was idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

SumOverRanks = Callable[[Tensor], Tensor]


class Usage(NamedTuple):
    """`used_fraction` of the codes seen at least once; `perplexity`: exp(entropy) of their frequencies."""

    used_fraction: float
    perplexity: float


class Ages(NamedTuple):
    """For how many recorded global batches codes were not used, since they were drawn anew where that is later: median,
    90 % quantile and maximum over all codes; `dead`: how many codes for at least `dead_after`."""

    median: float
    p90: float
    oldest: int
    dead: int


def usage_of(counts: Tensor) -> Usage:
    """Usage of a table of counts [K]; zeros when nothing was counted."""
    total = counts.sum()
    if total == 0:
        return Usage(0.0, 0.0)
    frequencies = counts.double() / total
    entropy = -torch.xlogy(frequencies, frequencies).sum()
    return Usage(float((counts > 0).double().mean()), float(entropy.exp()))


class CodeUsage(nn.Module):
    """Statistics in int64 buffers: part of a training checkpoint (exact resume), left out of exports.

    window: int64 [steps, K], ring buffer of counts per global batch. idle: int64 [K], global batches since last use.
    steps: int64 scalar, global batches recorded.
    """

    window: Tensor
    idle: Tensor
    steps: Tensor

    def __init__(self, size: int, window_steps: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.zeros(window_steps, size, dtype=torch.int64))
        self.register_buffer("idle", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def record(self, codes: Tensor, sum_over_ranks: SumOverRanks) -> None:
        """Count the codes (any shape) of one global batch; each rank gives its own, `sum_over_ranks` adds counts.

        Call it once per optimizer step with the codes of all micro-batches.
        """
        counts = sum_over_ranks(torch.bincount(codes.flatten(), minlength=len(self.idle)))
        self.window[self.steps % len(self.window)] = counts
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        self.steps += 1

    def usage(self) -> Usage:
        return usage_of(self.window.sum(0))

    def ages(self, dead_after: int) -> Ages:
        """Equal on all ranks, and the same after a resume: `idle` comes from global counts and is in checkpoints."""
        median, p90 = torch.quantile(self.idle.double(), self.idle.new_tensor([0.5, 0.9], dtype=torch.float64)).tolist()
        return Ages(median, p90, int(self.idle.max()), int((self.idle >= dead_after).sum()))
