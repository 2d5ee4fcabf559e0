"""Percentile bootstrap: how far a figure would move had other examples of the same kind been drawn.

Units are drawn with repetition, as many as there are, and the figure is computed anew; the interval lies between the
2.5th and the 97.5th percentile of such figures (Efron and Tibshirani 1993, An Introduction to the Bootstrap, 13.3).
Draws depend on the seed and the number of units alone. So figures of two models on the same units meet the same draws,
and the difference of their resampled figures, one by one, is the paired bootstrap (Koehn 2004, Statistical Significance
Tests for Machine Translation Evaluation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]
METHOD = "percentile bootstrap over units, 95 %"
SOURCE = "Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3"
_BLOCK = 1 << 22  # numbers drawn at a time


def draws(units: int, resamples: int, seed: int) -> Iterator[Choice]:
    """Blocks int64 [b, units] of unit numbers, `resamples` rows in all; equal arguments give equal draws."""
    generator = np.random.Generator(np.random.PCG64([seed, units]))
    rows = max(1, _BLOCK // units)
    for start in range(0, resamples, rows):
        yield generator.integers(0, units, (min(rows, resamples - start), units))


def resampled_means(values: Sequence[Floats], resamples: int, seed: int) -> list[Floats]:
    """For each of several figures, one value per unit [n] each: the means of the drawn units, float64 [resamples]."""
    table = np.stack(values, axis=1).astype(np.float64)
    units = len(table)
    parts = [_counts(block, units) @ table / units for block in draws(units, resamples, seed)]
    return list(np.concatenate(parts).T)


def resampled_by(figure: Callable[[Choice], float], units: int, resamples: int, seed: int) -> Floats:
    """The figure of each draw, float64 [resamples]."""
    return np.array([figure(choice) for block in draws(units, resamples, seed) for choice in block], np.float64)


def interval(resampled: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled figures."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _counts(block: Choice, units: int) -> Floats:
    """How often each unit is drawn, [b, units]."""
    shifted = block + np.arange(len(block))[:, None] * units
    return np.bincount(shifted.ravel(), minlength=len(block) * units).reshape(len(block), units).astype(np.float64)
