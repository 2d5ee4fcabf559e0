"""Improved precision and recall: which samples lie within the manifold of another set.

Kynkaanniemi et al. 2019 (arXiv 1904.06991): the manifold of a set is the union of balls around its samples, each as
large as the distance to its k-th nearest neighbour. Precision is the share of painted pictures within the manifold of
the originals, recall the share of originals within that of the painted. (The paper takes VGG-16's features; whose are
used belongs to the name of a figure.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 3
_BLOCK_BYTES = 64 * 2**20


def within(samples: npt.NDArray[Any], members: npt.NDArray[Any], neighbours: int = NEIGHBOURS) -> npt.NDArray[np.bool_]:
    """Of samples [n, d], which lie within the manifold of members [m, d], m > neighbours: bool [n].

    Distances are float64 and taken in blocks of 64 MiB.
    """
    assert len(members) > neighbours, f"{len(members)} members have no neighbour number {neighbours}"
    # A member is its own nearest, so the k-th neighbour is number k from 0.
    radii = np.concatenate(
        [np.partition(block, neighbours, axis=1)[:, neighbours] for block in _blocks(members, members)]
    )
    return np.concatenate([(block <= radii).any(1) for block in _blocks(samples, members)])


def _blocks(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float64]]:
    """Squared distances of some rows to all columns [b, m]; around the columns' mean, where less is cancelled."""
    centre = columns.mean(0, dtype=np.float64)
    rows, columns = rows - centre, columns - centre
    lengths, size = (columns**2).sum(1), max(1, _BLOCK_BYTES // (8 * len(columns)))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield (block**2).sum(1, keepdims=True) + lengths - 2 * block @ columns.T
