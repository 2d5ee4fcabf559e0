"""What a suite is: work on a few examples at a time that leaves records, and figures that are made of all records.

The runner (`seed_dist.suites.run`) deals batches out to the ranks, keeps every batch's records on disk, and goes on
after a kill where it was. So a suite holds no state between batches, and `score` sees all records in the order of the
set, whoever made them. What a record holds must not depend on the batch that its example was in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seed_dist.testsets.example import Example

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """What was found for one example. `fields` are JSON; `arrays` are kept beside them."""

    key: str
    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One number of a table, with what its interval is made of.

    Either `values`, one number for each of n units, whose mean the figure is; or `resampled`, the figure of a choice of
    units (int64 [n], drawn with repetition), for what is no mean, such as corpus BLEU or FID.
    `chance`: what knows nothing gets. `control`: the same measure on shuffled pairs, or what the
    protocol says where there are no pairs. `note`: what a reader has to know, such as a bias at this n.
    """

    name: str
    value: float
    n: int
    values: Floats | None = None
    resampled: Callable[[npt.NDArray[np.int64]], float] | None = None
    higher_is_better: bool = True
    chance: float | None = None
    control: float | None = None
    note: str = ""


class Suite(Protocol):
    """A measurement on a test set.

    `name`: of the option --suite. `protocol`: all that has to be equal for two figures to be comparable (prompts,
    sizes, resize filters, seeds, decoding, versions of what computes it); JSON. `models`: names and SHA-256 of what was
    measured, and of every judge; JSON.
    """

    name: str
    protocol: dict[str, Any]
    models: dict[str, Any]

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """One record per example, in their order."""
        ...

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        """The figures, from all records of a set and its examples, in the same order."""
        ...
