"""What single codes stand for: the images of a split that use them and at which positions; and how sure a use is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seed_dist.errors import ConfigError

_OF_EACH_KIND = 3  # codes
_LEAST_USES = 5  # of a code whose stability is judged
_BLOCK = 1 << 22  # fp32 distances at a time


@dataclass(frozen=True)
class CodeUse:
    """One code on a split. `uses`: how often it occurs; `images`: in how many; `at`: at each of the Q positions;
    `margin`: see `margins`, mean over its uses; `rows`: the first images that use it, each with the positions.
    """

    code: int
    why: str
    uses: int
    images: int
    at: list[int]
    margin: float | None
    rows: list[tuple[int, list[int]]]


def margins(vectors: Tensor, code_vectors: Tensor) -> Tensor:
    """How much farther the second nearest of `code_vectors` [K, c] is than the nearest one, as a share of its squared
    distance, for each of `vectors` [N, c]: fp32 [N], 0 where a vector lies between two codes, 1 where it is one.
    """
    found = []
    for block in vectors.split(max(1, _BLOCK // len(code_vectors))):
        first, second = torch.cdist(block, code_vectors).topk(2, largest=False).values.square().T
        found.append(1 - first / second.clamp(min=torch.finfo(torch.float32).tiny))
    return torch.cat(found)


def chosen(counts: Tensor, margin: Tensor, asked: Sequence[int]) -> dict[int, str]:
    """Code -> why it is shown: those asked for, or the most and the rarest used and the least stable ones.

    `counts` int64 [K]; `margin` [K]: mean over a code's uses. ConfigError for a code that does not exist.
    """
    wrong = [code for code in asked if not 0 <= code < len(counts)]
    if wrong:
        raise ConfigError([f"--codes has {wrong[0]}, but the codes of this tokenizer are 0 to {len(counts) - 1}"])
    if asked:
        return dict.fromkeys(asked, "asked for")
    order = counts.argsort(descending=True, stable=True)
    used = order[: int((counts > 0).sum())]
    judged = used[counts[used] >= _LEAST_USES]
    shaky = judged[margin[judged].argsort(stable=True)]
    kinds = (("most used", used), ("rarest used", used.flip(0)), ("least stable", shaky))
    found: dict[int, str] = {}
    for why, codes in kinds:
        fresh = [code for code in codes.tolist() if code not in found]
        found |= dict.fromkeys(fresh[:_OF_EACH_KIND], why)
    return found


def gallery(codes: Tensor, margin: Tensor, size: int, asked: Sequence[int], shown: int) -> list[CodeUse]:
    """Of `codes` int64 [N, Q] with a margin for each use [N, Q]; `shown` images of each code."""
    counts = torch.bincount(codes.flatten(), minlength=size)
    sums = torch.bincount(codes.flatten(), weights=margin.flatten().double(), minlength=size)
    means = sums / counts.clamp(min=1)
    table = codes.numpy()
    found = []
    for code, why in chosen(counts, means, asked).items():
        rows = np.flatnonzero((table == code).any(1))
        first = [(int(row), np.flatnonzero(table[row] == code).tolist()) for row in rows[:shown]]
        at = (table == code).sum(0).tolist()
        sure = float(means[code]) if counts[code] else None
        found.append(CodeUse(code, why, int(counts[code]), len(rows), at, sure, first))
    return found


def as_numbers(uses: Sequence[CodeUse]) -> list[dict[str, Any]]:
    """For report.json: all but which images are shown."""
    return [{name: value for name, value in asdict(use).items() if name != "rows"} for use in uses]
