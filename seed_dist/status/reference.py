"""How a run's curves lie beside those of reference runs of the same recipe: recipes/NAME.reference.json, which
`python -m seed_dist.studies.reference` makes of the journals of a few seeds.

A band says where one more run of the same configuration lies in nine of ten cases. Points of a band are means over the
steps since the point before; those of validations are what was measured at that step.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from seed_dist.status.history import Curve

_RECIPES = Path(__file__).parents[1] / "recipes"
# Quantiles 0.95 of Student's t by degrees of freedom, for two-sided bounds of 90 %.
_T = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}
_NEIGHBOURS = 2  # points on either side that a point's spread is pooled with: that of three runs alone says little
_OWN = ("seed", "parents.")  # what reference runs differ in among themselves
MOST_RUNS = max(_T) + 1


@dataclass(frozen=True)
class Band:
    """One figure of the reference runs at `steps`; `low` and `high` bound one more run, `median` is that of theirs."""

    steps: list[int]
    low: list[float]
    median: list[float]
    high: list[float]


@dataclass(frozen=True)
class Reference:
    """One stage of a recipe. `identity`: as in run.json, without seeds and parents; `samples`: of each split; `runs`:
    seed, fingerprint (as in run.json), revision and number of ranks of each."""

    stage: str
    identity: dict[str, Any]
    samples: dict[str, int]
    runs: list[dict[str, Any]]
    bands: dict[str, Band]


@dataclass(frozen=True)
class Judged:
    """A figure at the last point of its band that the run has reached."""

    name: str
    step: int
    value: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Comparison:
    """A run beside its reference. `differing`: option -> (the run's value, the reference runs'); where more differs
    than options of the optimisation there is no band, and `judged` and `bands` are empty.
    """

    runs: int
    differing: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)
    bands: dict[str, Band] = field(default_factory=dict)

    def words(self) -> str:
        """Whether the loss is inside, and which other figures are not; or that there is no band, and why."""
        listed = ", ".join(f"{name} is {ours} instead of {theirs}" for name, (ours, theirs) in self.differing.items())
        if not self.runs:
            return "there are no reference runs of this stage of the recipe"
        if not self.bands:
            return f"no band for this configuration: {listed}"
        outside = [one.name for one in self.judged if not one.is_inside and one.name != "loss"]
        said = [judged_words(one, self.runs) for one in self.judged if one.name == "loss"]
        said += [f"outside theirs: {', '.join(outside)}"] if outside else []
        said += [f"but {listed}"] if listed else []
        return "; ".join(said) or "the first point of the band is not reached yet"


def judged_words(one: Judged, runs: int) -> str:
    where = "inside" if one.is_inside else "above" if one.value > one.high else "below"
    name = one.name.replace("validation/", "validation, ")
    band = f"the band {one.low:.3g} to {one.high:.3g} of {runs} reference runs"
    return f"{name} at step {one.step:,} is {one.value:.3g}: {where} {band}"


def compare(record: Mapping[str, Any], samples: Mapping[str, int], curves: Mapping[str, Curve]) -> Comparison:
    """A run by its run.json, the samples of its splits and what its journal has told so far."""
    reference = read_references(str(record["recipe"].get("name"))).get(str(record["stage"]))
    if reference is None:
        return Comparison(0)
    differing = _differing(record["identity"], reference, samples)
    count = len(reference.runs)
    optimisation = f"{reference.stage}_training."
    if any(not name.startswith(optimisation) or name == f"{optimisation}steps" for name in differing):
        return Comparison(count, differing)
    judged = [one for name, band in reference.bands.items() if (one := _judge(name, band, curves.get(name)))]
    return Comparison(count, differing, judged, reference.bands)


@functools.cache
def read_references(recipe: str) -> dict[str, Reference]:
    """By stage; none for a recipe without a file."""
    path = reference_path(recipe)
    if not path.is_file():
        return {}
    stages = json.loads(path.read_text())["stages"]
    return {
        stage: Reference(stage, **{**values, "bands": {name: Band(**band) for name, band in values["bands"].items()}})
        for stage, values in stages.items()
    }


def reference_path(recipe: str) -> Path:
    """A recipe's name comes from a file: only the last part of it may name another one."""
    return _RECIPES / f"{Path(recipe).name}.reference.json"


def comparable_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Without what reference runs differ in among themselves."""
    return {name: value for name, value in identity.items() if not name.startswith(_OWN)}


def means(curve: Curve, edges: Sequence[int]) -> list[float | None]:
    """Means of the points between each edge and the one before; None where there are none."""
    found: list[float | None] = []
    for before, edge in zip((-math.inf, *edges), edges, strict=False):
        inside = [y for x, y in curve.points if before < x <= edge]
        found.append(statistics.fmean(inside) if inside else None)
    return found


def band_of(edges: Sequence[int], runs: Sequence[Sequence[float]]) -> Band:
    """Prediction interval of one more run at every edge, from 2 to 10 `runs` with a value for each edge.

    Mean +- t s sqrt(1 + 1/n), for normally distributed runs; s is pooled with the neighbouring points. The
    logarithms are taken for normal of what is always positive, unless it never exceeds 1: shares and cosines may begin
    anywhere near 0, where logarithms lie far apart. At least as wide as the runs themselves.
    """
    count = len(runs)
    values = [value for row in runs for value in row]
    there, back = (math.log, math.exp) if min(values) > 0 and max(values) > 1 else (float, float)
    columns = [[there(value) for value in column] for column in zip(*runs, strict=True)]
    variances = [statistics.variance(column) for column in columns]
    low, high = [], []
    for i, column in enumerate(columns):
        pooled = statistics.fmean(variances[max(0, i - _NEIGHBOURS) : i + _NEIGHBOURS + 1])
        half = _T[count - 1] * math.sqrt(pooled * (1 + 1 / count))
        centre = statistics.fmean(column)
        low.append(back(min(*column, centre - half)))
        high.append(back(max(*column, centre + half)))
    return Band(list(edges), low, [back(statistics.median(column)) for column in columns], high)


def _judge(name: str, band: Band, curve: Curve | None) -> Judged | None:
    if curve is None or not curve.points:
        return None
    reached = curve.xs[-1] + (curve.width - 1) / 2  # the last point is a mean of so many
    values = means(curve, band.steps)
    points = zip(band.steps, values, band.low, band.high, strict=True)
    judged = [Judged(name, step, y, low, high) for step, y, low, high in points if step <= reached and y is not None]
    return judged[-1] if judged else None


def _differing(
    identity: Mapping[str, Any], reference: Reference, samples: Mapping[str, int]
) -> dict[str, tuple[Any, Any]]:
    """An option that one side's program did not have yet counts as its default."""
    ours, theirs = comparable_identity(identity), reference.identity
    found = {}
    for name in {**theirs, **ours}:
        pair = (ours[name] if name in ours else _default(name), theirs[name] if name in theirs else _default(name))
        if pair[0] != pair[1]:
            found[name] = pair
    for split, count in reference.samples.items():
        if samples and samples.get(split) != count:
            found[f"samples of {split}"] = (samples.get(split), count)
    return found


def _default(name: str) -> Any:
    from seed_dist.config import Recipe  # only where versions differ: pydantic takes longer than all of status

    section, _, option = name.partition(".")
    owner = get_type_hints(Recipe).get(section)
    return next(_defaults(owner, option), None) if dataclasses.is_dataclass(owner) else None


def _defaults(owner: Any, option: str) -> Iterator[Any]:
    for known in dataclasses.fields(owner):
        if known.name == option and known.default is not dataclasses.MISSING:
            yield known.default
