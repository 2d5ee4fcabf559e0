"""What codes say to the best simple reader: each code at each place adds a vector of its own.

A decoder that was never trained on prefixes may fail at them although the codes say enough. This reader is fitted to
just those codes that it is given, so it tells the two apart. For one code it is the best reader that there is (the mean
of what that code stood for in training); for several it misses only what they say together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1.0  # added to how often a code occurs at a place: a code that was never seen says nothing
_ITERATIONS = 30


class AdditiveReader:
    """Ridge regression from codes [N, k] of a codebook of `size` to targets [N, D], by conjugate gradients."""

    def __init__(self, codes: Tensor, targets: Tensor, size: int) -> None:
        self._size, self._mean = size, targets.float().mean(0)
        columns = self._columns(codes)
        residual = _spread_back(columns, targets.float() - self._mean, codes.shape[1] * size)
        counts = torch.bincount(columns.flatten(), minlength=len(residual)).float()
        scale = 1 / (counts + RIDGE)[:, None]  # the preconditioner: exact where there is one place
        self._vectors = torch.zeros_like(residual)
        direction = scale * residual
        old = (residual * direction).sum(0)
        for _ in range(_ITERATIONS):
            image = _spread_back(columns, _added(columns, direction), len(residual)) + RIDGE * direction
            step = old / (direction * image).sum(0).clamp(min=1e-12)
            self._vectors += step * direction
            residual -= step * image
            new = (residual * scale * residual).sum(0)
            direction = scale * residual + new / old.clamp(min=1e-12) * direction
            old = new

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes [M, k] -> what they say, [M, D]."""
        return self._mean + _added(self._columns(codes), self._vectors)

    def _columns(self, codes: Tensor) -> Tensor:
        """One number for each code at each place."""
        return codes.long() + torch.arange(codes.shape[1]) * self._size


def _added(columns: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [C, D] of these columns [N, k], summed: [N, D]."""
    return F.embedding_bag(columns, vectors, mode="sum")


def _spread_back(columns: Tensor, values: Tensor, size: int) -> Tensor:
    """The transpose of `_added`: values [N, D] -> [size, D]."""
    out = torch.zeros(size, values.shape[1])
    for column in columns.T:
        out.index_add_(0, column, values)
    return out
