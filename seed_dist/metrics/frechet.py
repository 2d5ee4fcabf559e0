"""The Frechet distance between two sets of features, taken as Gaussians; on Inception's features it is the FID.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

(Heusel et al. 2017, arXiv 1706.08500, with the unbiased covariances of their code). With S = A^T A the last trace is
the sum of the singular values of A1 A2^T. So no matrix root is taken: fewer samples than dimensions, where S is
singular, are as exact as many, and neither order nor a shift of all features changes the result but by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrechetDistance:
    """`value`, and for paired sets of n each `linear`, float64 [n]: numbers whose mean is the value.

    The spread of `linear` is that of the value to first order (the infinitesimal jackknife), which resampling does not
    give: a resample repeats samples, and fewer different ones are farther apart. It says nothing of the bias: the
    distance of n samples is too large by about 1/n, and so is comparable only at equal n.
    """

    value: float
    linear: Floats | None


def frechet_distance(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> FrechetDistance:
    """Of features [n, d] and [m, d], at least two each; rows i belong together where n = m. Computed in float64."""
    assert len(first) > 1 < len(second), "a covariance needs two samples"
    one, two = _Gaussian(first), _Gaussian(second)
    left, singular, right = np.linalg.svd(one.factor @ two.factor.T, full_matrices=False)
    apart, root = one.mean - two.mean, float(singular.sum())
    value = float(apart @ apart) + one.variance + two.variance - 2 * root
    if len(first) != len(second):
        return FrechetDistance(max(value, 0.0), None)
    # Derivatives by the weight of a pair; that of the root's trace is half of x^T T x, T the optimal map between both.
    linear = 2 * (one.centred - two.centred) @ apart
    for gaussian, vectors in ((one, left), (two, right.T)):
        linear += (gaussian.centred**2).sum(1) * gaussian.unbiased - gaussian.variance
        linear -= gaussian.along(vectors) @ singular - root
    return FrechetDistance(max(value, 0.0), linear + max(value, 0.0))


class _Gaussian:
    """Mean, total variance and a factor A [min(n, d), d] of the covariance A^T A."""

    def __init__(self, features: npt.NDArray[Any]) -> None:
        self.mean = features.mean(0, dtype=np.float64)
        self.centred: Floats = features - self.mean
        count, width = features.shape
        self.unbiased = count / (count - 1)
        scaled = self.centred / np.sqrt(count - 1)
        self._rows: Floats | None = None
        self.factor: Floats = scaled
        if count > width:
            self._rows, self.factor = np.linalg.qr(scaled)
        self.variance = float((scaled**2).sum())

    def along(self, vectors: Floats) -> Floats:
        """Squared coordinates [n, r] of the samples, whitened, along orthonormal `vectors` [min(n, d), r]."""
        rows = vectors if self._rows is None else self._rows @ vectors
        squared: Floats = rows**2 * len(self.centred)
        return squared
