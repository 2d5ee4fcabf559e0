"""Figures over seeds: mean, spread, and whether two arms differ by more than their seeds do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seed_dist.eval.studies.definitions import Figure, Study
from seed_dist.eval.targets import lookup


@dataclass(frozen=True)
class Spread:
    """One figure of one arm, a value per seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); 0 for a single seed."""
        n = len(self.values)
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (n - 1)) if n > 1 else 0.0

    def is_apart_from(self, other: Spread) -> bool:
        """Every seed of one lies above every seed of the other, and there are at least two of each.

        A rank rule that assumes nothing of the distribution. By chance alone three seeds against three do so in 2 of
        C(6, 3) = 20 orders, in 1 of 10 figures: it says where to look, not that a difference is proven.
        """
        if min(len(self.values), len(other.values)) < 2:
            return False
        return min(self.values) > max(other.values) or max(self.values) < min(other.values)


def spread(result: Mapping[str, Any], arm: str, path: str) -> Spread | None:
    """The figure at a dotted path of an arm's numbers, in the order of the seeds; None where it was not measured."""
    values = [lookup(result["arms"][arm][str(seed)], path) for seed in result["seeds"]]
    found = tuple(float(value) for value in values if value is not None)
    return Spread(found) if len(found) == len(values) and found else None


def measured(study: Study, result: Mapping[str, Any]) -> list[tuple[Figure, dict[str, Spread]]]:
    """The figures of a study that some arm has, with the spread of each arm that has it."""
    rows = []
    for figure in study.figures:
        spreads = {arm: found for arm in result["arms"] if (found := spread(result, arm, figure.path)) is not None}
        if spreads:
            rows.append((figure, spreads))
    return rows


def reference(result: Mapping[str, Any], path: str) -> float | None:
    """A chance level or control: the mean over all arms and seeds that have it."""
    found = [one.mean for arm in result["arms"] if path and (one := spread(result, arm, path)) is not None]
    return sum(found) / len(found) if found else None


def seeds_in_words(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) != 1 else f"1 seed ({seeds[0]})"
