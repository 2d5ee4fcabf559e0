"""The Inception Score: how sure a classifier is of each picture, and how much its answers differ between pictures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

SPLITS = 10


def inception_score(logits: npt.NDArray[Any], splits: int = SPLITS) -> float:
    """Mean over `splits` equal parts of exp(mean KL(p(y|x) || p(y))), from logits [n, classes], n >= splits.

    Salimans et al. 2016 (arXiv 1606.03498), whose code has ten parts; as there and in torch-fidelity the logits are to
    be without the last layer's bias. More pictures allow a higher score, so only scores of equal n are comparable.
    """
    assert len(logits) >= splits, f"{splits} parts of {len(logits)} pictures"
    raised = np.asarray(logits, dtype=np.float64)
    log_p = raised - raised.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    cuts = [part * len(log_p) // splits for part in range(splits + 1)]
    return float(np.mean([_of_part(log_p[start:stop]) for start, stop in pairwise(cuts)]))


def _of_part(log_p: npt.NDArray[np.float64]) -> float:
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()))
