"""Which pictures are nearest: by the number of equal codes, and by the cosine of the last causal embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.page.markup import Html, tag
from seed_dist.suites.page import shown_picture
from seed_dist.suites.suite import Figure, Record
from seed_dist.testsets.example import Example

Rows = npt.NDArray[np.int64]
_DEPTH, _QUERIES = 10, 1000
_SHOWN, _SHOWN_DEPTH = 4, 4


def figures(codes: npt.NDArray[np.int64], last: npt.NDArray[Any], seed: int) -> list[Figure]:
    """How many of the ten nearest by codes are among the ten nearest by embedding, as a share; for 1,000 evenly spaced
    pictures at most. Control: the nearest of another picture.
    """
    depth = min(_DEPTH, len(codes) - 1)
    if depth < 1:
        return []
    rows = np.unique(np.linspace(0, len(codes) - 1, min(_QUERIES, len(codes))).astype(np.int64))
    by_codes, by_embedding = nearest_by_codes(codes, rows, depth), nearest_by_embedding(last, rows, depth)
    others = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    values, shuffled = _overlap(by_codes, by_embedding), _overlap(by_codes[others], by_embedding)
    chance = depth / (len(codes) - 1)
    name = f"neighbours/overlap_at_{depth}"
    return [Figure(name, float(values.mean()), len(rows), values=values, chance=chance, control=float(shuffled.mean()))]


def nearest_by_codes(codes: npt.NDArray[np.int64], rows: Rows, depth: int) -> Rows:
    """For each of `rows`, the `depth` other pictures [R, depth] with most equal codes; the earlier one where two have
    as many.
    """
    found = []
    for row in rows:
        agreement = (codes == codes[row]).sum(1)
        agreement[row] = -1
        found.append(np.argsort(-agreement, kind="stable")[:depth])
    return np.array(found)


def nearest_by_embedding(last: npt.NDArray[Any], rows: Rows, depth: int) -> Rows:
    """The same by cosine."""
    unit = last / np.linalg.norm(last, axis=1, keepdims=True)
    found = []
    for row in rows:
        cosine = unit @ unit[row]
        cosine[row] = -np.inf
        found.append(np.argsort(-cosine, kind="stable")[:depth])
    return np.array(found)


def section(records: Sequence[Record], examples: Sequence[Example]) -> Html:
    """A few pictures, evenly spaced, each with its nearest in both ways."""
    codes = np.stack([record.arrays["ids"] for record in records]).astype(np.int64)
    last = np.stack([record.arrays["last"] for record in records])
    rows = np.unique(np.linspace(0, len(codes) - 1, min(_SHOWN, len(codes))).astype(np.int64))
    depth, blocks = min(_SHOWN_DEPTH, len(codes) - 1), []
    for way, nearest in (("codes", nearest_by_codes), ("embedding", nearest_by_embedding)):
        for row, found in zip(rows, nearest(codes if way == "codes" else last, rows, depth), strict=True):
            shown = [(row, "picture"), *((other, _said(codes, row, other)) for other in found)]
            cards = [
                tag("li", tag("figure", shown_picture(examples[at]), tag("figcaption", text))) for at, text in shown
            ]
            blocks += [tag("h4", f"nearest by {way}"), tag("ul", cards, class_="pictures")]
    return tag("div", tag("h3", "Neighbours"), *blocks)


def _said(codes: npt.NDArray[np.int64], row: int, other: int) -> str:
    return f"{int((codes[row] == codes[other]).sum())} of {codes.shape[1]} codes equal"


def _overlap(a: Rows, b: Rows) -> npt.NDArray[np.float64]:
    return np.array([len(set(x) & set(y)) / len(x) for x, y in zip(a.tolist(), b.tolist(), strict=True)], np.float64)
