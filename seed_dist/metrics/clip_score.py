"""Similarity of pictures to pictures and to captions, by the embeddings of a CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_BLOCK = 1024  # rows of one side at a time


def paired_cosines(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Floats:
    """Cosines of rows of the same number: [n, d] and [n, d] -> [n].

    Of two pictures, times 100, it is the CLIP similarity of GILL (its evals/compute_clip_similarity_vist.py) and of
    SEED-1's table 2; of a picture and a caption the CLIP score in percent.
    """
    cosines: Floats = (_unit(first) * _unit(second)).sum(1)
    return cosines


def published_clip_score(cosines: Floats) -> Floats:
    """2.5 * max(cosine, 0): CLIPScore as Hessel et al. 2021 define it (arXiv 2104.08718, section 3)."""
    return 2.5 * np.maximum(cosines, 0)


def mismatched(
    first: npt.NDArray[Any], second: npt.NDArray[Any], scale: Callable[[Floats], Floats] = lambda cosines: cosines
) -> float:
    """Mean of scaled cosines over all pairs of rows of different numbers, n >= 2: what a picture of something else
    gets. n * n products, some rows at a time.
    """
    one, two, n = _unit(first), _unit(second), len(first)
    every = sum(float(scale(one[start : start + _BLOCK] @ two.T).sum()) for start in range(0, n, _BLOCK))
    return (every - float(scale((one * two).sum(1)).sum())) / (n * (n - 1))


def _unit(rows: npt.NDArray[Any]) -> Floats:
    """Rows of length 1; zeros stay zeros."""
    wide = np.asarray(rows, dtype=np.float64)
    unit: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit
