"""The figures of suite `codes`, from ids alone.

Use, entropies and what is told of words have no interval: drawing examples with repetition makes a sample look poorer
than it is, and the percentiles would not even hold the figure itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from seed_dist.metrics.code_information import entropy_bits, frequent_words, told_of_words
from seed_dist.metrics.retrieval import Ranks, chance_ranks
from seed_dist.models.captions import clean_caption
from seed_dist.suites.perturbations import PROTOCOL
from seed_dist.suites.retrieval import recall_figure
from seed_dist.suites.suite import Figure, Record

Codes = npt.NDArray[np.int64]
_PROBED = (*PROTOCOL, "alone", "bf16")


def usage(codes: Codes, size: int) -> list[Figure]:
    """Share of a codebook of `size` entries that occurs in codes [N, Q], exp of the entropy of all, and bits per
    position.
    """
    n = len(codes)
    counts = np.bincount(codes.ravel(), minlength=size)
    positions = [entropy_bits(np.bincount(column)) for column in codes.T]
    return [
        Figure("usage/used_fraction", float((counts > 0).mean()), n),
        Figure("usage/perplexity", float(2 ** entropy_bits(counts)), n),
        Figure("usage/entropy_bits", float(np.mean(positions)), n),
        *(Figure(f"usage/entropy_bits/position.{p:02d}", bits, n) for p, bits in enumerate(positions, 1)),
    ]


def prefix(kept: int, ranks: tuple[Ranks, Ranks], control: tuple[Ranks, Ranks], owner: Tensor) -> list[Figure]:
    """R@1 from the first `kept` codes; a chart's point each."""
    images = owner.unique()
    chance = chance_ranks(images, owner).recall(1), chance_ranks(owner, images).recall(1)
    return [
        recall_figure(f"prefix/{way}_r1.first{kept:02d}", own, 1, owner, (chance[at], control[at].recall(1)))
        for at, (way, own) in enumerate(zip(("i2t", "t2i"), ranks, strict=True))
    ]


def words(codes: Codes, captions: Sequence[str], seed: int) -> list[Figure]:
    """What each position tells of the words of the first captions, as a share of those words' entropy."""
    chosen, has_word = frequent_words([clean_caption(caption) for caption in captions])
    if not chosen:
        return []
    found = [told_of_words(column, has_word, seed) for column in codes.T]
    mean, nothing = np.mean(found, axis=0)
    return [
        Figure("words/told", float(mean), len(codes), chance=0.0, control=float(nothing)),
        *(
            Figure(f"words/told/position.{p:02d}", told, len(codes), chance=0.0, control=shuffled)
            for p, (told, shuffled) in enumerate(found, 1)
        ),
    ]


def stability(records: Sequence[Record], seed: int) -> list[Figure]:
    """Share of codes that stay, for each thing that was done to pictures, as a whole and per position.

    Chance: what two pictures of the set have in common on average. Control: another picture's ids, shuffled.
    """
    ids = np.stack([record.arrays["ids"] for record in records])
    chance = _in_common(ids)
    figures: list[Figure] = []
    for kind in _PROBED:
        rows = [row for row, record in enumerate(records) if f"ids.{kind}" in record.arrays]
        if not rows:
            continue
        changed = np.stack([records[row].arrays[f"ids.{kind}"] for row in rows])
        same = (ids[rows] == changed).astype(np.float64)
        others = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
        shuffled = (ids[rows][others] == changed).mean(0)
        figures.append(_stays(f"stability/{kind}", same.mean(1), float(chance.mean()), float(shuffled.mean())))
        figures += [
            _stays(f"stability/{kind}/position.{p + 1:02d}", same[:, p], float(chance[p]), float(shuffled[p]))
            for p in range(same.shape[1])
        ]
    return figures


def _stays(name: str, values: npt.NDArray[np.float64], chance: float, control: float) -> Figure:
    return Figure(name, float(values.mean()), len(values), values=values, chance=chance, control=control)


def _in_common(ids: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Per position, the chance that two pictures drawn from the set have the same code: sum of squared shares."""
    return np.array([float(np.square(np.bincount(column) / len(column)).sum()) for column in ids.T])
