"""What is trained on: one split of the workspace, or a mixture of several with weights.

A mixture has cycles of CYCLE samples. Each split has a whole number of them, the same in every cycle, so shares are
exact wherever a cycle ends, and differ by less than 1 / CYCLE from those that the weights ask for.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Annotated

from pydantic import ConfigDict, Strict
from pydantic.dataclasses import dataclass

CYCLE = 10_000  # so that weights of up to four decimals are met exactly
VALIDATION_SPLIT = "val"
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class WeightedSplit:
    """A split, and how much of the batches comes from it relative to the weights of the others."""

    split: Annotated[str, Strict()]
    weight: Annotated[float, Strict()] = 1.0


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """The splits that all stages are trained on; in which order they are named makes no difference."""

    mixture: tuple[WeightedSplit, ...] = (WeightedSplit("train"),)

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each split in a cycle, by name: those of the largest remainders (Hamilton) are rounded up."""
        parts = sorted(self.mixture, key=lambda part: part.split)
        weights = [Fraction(part.weight) for part in parts]
        exact = [weight / sum(weights) * CYCLE for weight in weights]
        counts = [math.floor(value) for value in exact]
        by_remainder = sorted(range(len(parts)), key=lambda number: counts[number] - exact[number])
        for number in by_remainder[: CYCLE - sum(counts)]:
            counts[number] += 1
        return {part.split: count for part, count in zip(parts, counts, strict=True)}

    def problems(self) -> list[str]:
        """Everything that is wrong with the mixture by itself; `counts` are those of one that has none."""
        found = [] if self.mixture else ["data.mixture is empty: name one split at least"]
        for split, times in Counter(part.split for part in self.mixture).items():
            if times > 1:
                found.append(f"data.mixture names {split!r} {times} times: name it once, with all of its weight")
            if split == VALIDATION_SPLIT:
                found.append(f"data.mixture names {split!r}, which the stages are validated on: leave it out")
        total = sum(Fraction(part.weight) for part in self.mixture if _is_usable(part.weight))
        for part in self.mixture:
            if not _is_usable(part.weight):
                found.append(f"data.mixture: the weight of {part.split!r} is {part.weight}; give a number above 0")
            elif Fraction(part.weight) * CYCLE < total:
                found.append(
                    f"data.mixture: the weight of {part.split!r} is {part.weight / float(total):.1g} of all, but "
                    f"{1 / CYCLE:g} is the least that the order can hold: raise it, or leave the split out"
                )
        return found


def _is_usable(weight: float) -> bool:
    return 0 < weight < math.inf
