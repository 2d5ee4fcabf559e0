"""The figures of painted pictures, from the features that records hold.

A picture that was asked for and not made counts as similarity 0, so that a model gains nothing by failing. Frechet
distance, Inception Score, precision and recall are of the pictures that were made, beside their originals.

A set has no pairs to shuffle, so what stands beside the figures of sets is another: see `BESIDE_SETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.metrics.clip_score import mismatched, paired_cosines, published_clip_score
from seed_dist.metrics.frechet import frechet_distance
from seed_dist.metrics.inception_score import SPLITS, inception_score
from seed_dist.metrics.manifold import NEIGHBOURS, within
from seed_dist.suites.suite import Figure, Floats, Record

PAINTED, ORIGINAL, CAPTION = "painted", "original", "caption"  # whose features: `JUDGE.WHOSE` names an array
NOISE = "noise"
BESIDE_SETS = {
    "chance": "as many pictures of uniform noise, of the painted size, each from its key",
    "control": "painted pictures of one half against originals of the other, mean of both ways, at half of n",
    "of_originals": "one half of the originals against the other: what flawless pictures of other examples get",
    "halves": "drawn with the seed",
}
_PERCENT = 100.0


def picture_figures(records: Sequence[Record], seed: int) -> list[Figure]:
    """All figures that the records' features allow. `seed`: of the shuffled pairs that are the control."""
    shuffled = np.random.default_rng(seed)
    return [
        *similarity_figures(records, shuffled),
        *caption_figures(records, shuffled),
        *lpips_figures(records),
        *distribution_figures([record for record in records if f"clip.{PAINTED}" in record.arrays], shuffled),
    ]


def similarity_figures(records: Sequence[Record], shuffled: np.random.Generator) -> list[Figure]:
    """Cosine x 100 of painted pictures and originals: GILL's measure, and that of SEED-1's table 2."""
    return [_paired("clip_similarity", records, (PAINTED, ORIGINAL), shuffled, _percent)]


def caption_figures(records: Sequence[Record], shuffled: np.random.Generator) -> list[Figure]:
    """CLIPScore as published (2.5 * max(cosine, 0)) and the cosine x 100, of painted pictures and of the originals.

    The originals' are what a painter of the very photograph would get.
    """
    judged = [record for record in records if f"clip.{CAPTION}" in record.arrays]
    if not judged:
        return []
    return [
        _paired(f"{name}{of}", judged, (whose, CAPTION), shuffled, scale)
        for whose, of in ((PAINTED, ""), (ORIGINAL, "_of_originals"))
        for name, scale in (("clip_score", published_clip_score), ("clip_score_cosine", _percent))
    ]


def lpips_figures(records: Sequence[Record]) -> list[Figure]:
    """LPIPS; chance is the distance to a grey picture."""
    judged = [record for record in records if "lpips" in record.fields]
    if not judged:
        return []
    values, grey = (np.array([record.fields[name] for record in judged]) for name in ("lpips", "lpips_grey"))
    value, chance = float(values.mean()), float(grey.mean())
    return [Figure("lpips", value, len(values), values, higher_is_better=False, chance=chance)]


def distribution_figures(made: Sequence[Record], shuffled: np.random.Generator) -> list[Figure]:
    """By each judge's features: Frechet distance, precision, recall; by Inception's logits the Inception Score."""
    halves = _halves(len(made), shuffled)
    names = list(made[0].arrays) if len(made) > NEIGHBOURS else []
    figures = []
    for judge in (name.removesuffix(f".{PAINTED}") for name in names if name.endswith(f".{PAINTED}")):
        painted, originals, noise = (_features(made, judge, whose) for whose in (PAINTED, ORIGINAL, NOISE))
        kind, _, resize = judge.partition("_")
        if kind == "logits":
            if len(made) >= SPLITS:
                by_noise = inception_score(noise)
                figures += [_score(f"inception_score_{resize}", painted, by_noise)]
                figures += [_score(f"inception_score_{resize}_of_originals", originals, by_noise)]
            continue
        fid = "fid_clip" if kind == "clip" else f"fid_{resize}"
        sets = _Sets(originals, painted, noise, halves)
        figures += [sets.frechet(fid), sets.precision(f"precision_{judge}"), sets.recall(f"recall_{judge}")]
        if len(halves[0]) > NEIGHBOURS:
            figures += sets.of_originals(f"{fid}_of_originals", f"precision_{judge}_of_originals")
    return figures


@dataclass(frozen=True)
class _Sets:
    """Features [n, d] of three sets by one judge, rows of an example aligned; `halves`: rows, as many in both."""

    originals: npt.NDArray[Any]
    painted: npt.NDArray[Any]
    noise: npt.NDArray[Any]
    halves: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

    def frechet(self, name: str) -> Figure:
        """Distance of the painted pictures."""

        def value(originals: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
            return frechet_distance(originals, others).value

        found = _frechet(name, self.originals, self.painted)
        return replace(found, chance=value(self.originals, self.noise), control=self._crossed(value))

    def precision(self, name: str) -> Figure:
        """Share of the painted pictures within the manifold of the originals."""

        def value(originals: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
            return float(within(others, originals).mean())

        found = _share(name, within(self.painted, self.originals))
        return replace(found, chance=value(self.originals, self.noise), control=self._crossed(value))

    def recall(self, name: str) -> Figure:
        """Share of the originals within the manifold of the painted pictures."""

        def value(originals: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
            return float(within(originals, others).mean())

        found = _share(name, within(self.originals, self.painted))
        return replace(found, chance=value(self.originals, self.noise), control=self._crossed(value))

    def of_originals(self, fid: str, precision: str) -> list[Figure]:
        """The same of one half of the originals against the other; recall would be precision over again."""
        (a, b), (one, other) = self.halves, (self.originals[half] for half in self.halves)
        distance = _frechet(fid, one, other)
        inside = _share(precision, np.concatenate([within(one, other), within(other, one)]))
        return [
            replace(distance, chance=frechet_distance(one, self.noise[b]).value),
            replace(inside, chance=float(within(self.noise[a], other).mean())),
        ]

    def _crossed(self, value: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]) -> float | None:
        """Of painted pictures and the originals of other examples; None where halves are too small."""
        a, b = self.halves
        if len(a) <= NEIGHBOURS:
            return None
        return (value(self.originals[a], self.painted[b]) + value(self.originals[b], self.painted[a])) / 2


def _paired(
    name: str,
    records: Sequence[Record],
    whose: tuple[str, str],
    shuffled: np.random.Generator,
    scale: Callable[[Floats], Floats],
) -> Figure:
    """Mean over all records, 0 where a picture was not made; chance is the mean over all wrong pairs."""
    rows = [row for row, record in enumerate(records) if f"clip.{whose[0]}" in record.arrays]
    values = np.zeros(len(records))
    chance = control = None
    if rows:
        made = [records[row] for row in rows]
        first, second = (_features(made, "clip", one) for one in whose)
        values[rows] = scale(paired_cosines(first, second))
        if len(rows) > 1:
            share = len(rows) / len(records)
            control = share * float(scale(paired_cosines(first, second[_derangement(len(rows), shuffled)])).mean())
            chance = share * mismatched(first, second, scale)
    note = f"{len(records) - len(rows)} that were not made count as 0" if len(rows) < len(records) else ""
    return Figure(name, float(values.mean()), len(values), values, chance=chance, control=control, note=note)


def _frechet(name: str, originals: npt.NDArray[Any], painted: npt.NDArray[Any]) -> Figure:
    found, (n, width) = frechet_distance(originals, painted), originals.shape
    few = f", and {n} samples do not span {width} dimensions" if n <= width else ""
    note = f"too large by about 1/n: compare at this n only{few}; the interval is of the first order, not resampled"
    return Figure(name, found.value, n, found.linear, higher_is_better=False, note=note)


def _score(name: str, logits: npt.NDArray[Any], by_noise: float) -> Figure:
    def resampled(choice: npt.NDArray[np.int64]) -> float:
        return inception_score(logits[choice])

    note = f"mean of {SPLITS} parts, in the order of the set; compare at this n only"
    return Figure(
        name, inception_score(logits), len(logits), resampled=resampled, chance=1.0, control=by_noise, note=note
    )


def _share(name: str, inside: npt.NDArray[np.bool_]) -> Figure:
    values = inside.astype(np.float64)
    note = f"balls to neighbour {NEIGHBOURS}; compare at this n only"
    return Figure(name, float(values.mean()), len(values), values, note=note)


def _features(records: Sequence[Record], judge: str, whose: str) -> npt.NDArray[Any]:
    return np.stack([record.arrays[f"{judge}.{whose}"] for record in records])


def _percent(cosines: Floats) -> Floats:
    return _PERCENT * cosines


def _halves(count: int, shuffled: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two sets of rows, none in both, of equal size: an odd one out is in neither."""
    order = shuffled.permutation(count)
    return order[: count // 2], order[count // 2 : count // 2 * 2]


def _derangement(count: int, shuffled: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random cycle over all rows: nothing stays where it is."""
    order, other = shuffled.permutation(count), np.empty(count, np.int64)
    other[order] = np.roll(order, 1)
    return other
