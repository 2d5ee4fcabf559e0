"""How far the codes of a codebook lie from each other: codes that lie together say the same, so some are wasted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SCORES = 1 << 22  # fp32 distances at a time: 16 MiB
_DUPLICATE_SHARE = 0.01  # of the codebook's own spread


class Spacing(NamedTuple):
    """Quantiles over codes of the Euclidean distance to the nearest other code; `near_duplicates`: how many codes have
    one within a hundredth of the codebook's spread, the root mean square distance of codes from their mean."""

    p5: float
    median: float
    p95: float
    near_duplicates: int


def spacing_of(codes: Tensor) -> Spacing:
    """Of code vectors [K, c], at least two."""
    nearest = nearest_other(codes)
    spread = (codes - codes.mean(0)).detach().float().square().sum(1).mean().sqrt()
    p5, median, p95 = torch.quantile(nearest, nearest.new_tensor([0.05, 0.5, 0.95])).tolist()
    return Spacing(p5, median, p95, int((nearest <= _DUPLICATE_SHARE * spread).sum()))


@torch.no_grad()
def nearest_other(codes: Tensor) -> Tensor:
    """Distance of every code to the nearest other one, fp32 [K].

    In blocks of rows, so that the table [K, K] never exists. The neighbour is looked for among centred codes by ||e||^2
    / 2 - z.e, and the distance to it taken from the difference: the sum would lose what is close to rounding.
    """
    codes = codes.float()
    centred = codes - codes.mean(0)
    half_norms = centred.square().sum(1) / 2
    found = []
    for rows in torch.arange(len(codes), device=codes.device).split(max(1, _SCORES // len(codes))):
        scores = half_norms - centred[rows] @ centred.T
        scores[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        found.append((codes[rows] - codes[scores.argmin(1)]).square().sum(1).sqrt())
    return torch.cat(found)
