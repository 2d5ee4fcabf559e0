"""Figures that remember what they are made of, so that an interval can be put around any of them afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.metrics import bootstrap

Numbers = Sequence[float] | npt.NDArray[Any]


class PerUnit(float):
    """The sum of `parts` over the sum of `wholes`, a number of each for every unit (a picture with its caption);
    without `wholes` the mean of `parts`. A float like any other, so scores, tables and JSON take it as it is.

    A mean, a share of what was asked in all units together, and a ratio of two means are all of this form, and so are
    their values under the bootstrap. ZeroDivisionError where the wholes add up to nothing.
    """

    parts: bootstrap.Floats
    wholes: bootstrap.Floats

    def __new__(cls, parts: Numbers, wholes: Numbers | None = None) -> PerUnit:
        above = np.asarray(parts, np.float64)
        below = np.ones_like(above) if wholes is None else np.asarray(wholes, np.float64)
        figure = super().__new__(cls, float(above.sum()) / float(below.sum()))
        figure.parts, figure.wholes = above, below
        return figure

    @property
    def n(self) -> int:
        """Units that count."""
        return int(np.count_nonzero((self.parts != 0) | (self.wholes != 0)))


def share(right: Numbers, asked: Numbers) -> PerUnit | None:
    """Of what was asked in each unit, how much was right; None where nothing was."""
    return PerUnit(right, asked) if np.any(asked) else None


def per_unit_figures(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, PerUnit]:
    """All figures of a tree of numbers that know their units, by dotted path."""
    found: dict[str, PerUnit] = {}
    for name, value in numbers.items():
        if isinstance(value, PerUnit):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= per_unit_figures(value, f"{prefix}{name}.")
    return found


def intervals(figures: Mapping[str, PerUnit], resamples: int, seed: int) -> dict[str, tuple[float, float] | None]:
    """The middle 95 % of each figure under the bootstrap's draws of units; None where some draw leaves nothing to
    divide by. Figures of equally many units meet the same draws.
    """
    found: dict[str, tuple[float, float] | None] = {}
    for units in sorted({len(figure.parts) for figure in figures.values()}):
        own = {path: figure for path, figure in figures.items() if len(figure.parts) == units}
        columns = [column for figure in own.values() for column in (figure.parts, figure.wholes)]
        drawn = bootstrap.resampled_means(columns, resamples, seed)
        for path, parts, wholes in zip(own, drawn[::2], drawn[1::2], strict=True):
            found[path] = bootstrap.interval(parts / wholes) if wholes.all() else None
    return {path: found[path] for path in figures}
