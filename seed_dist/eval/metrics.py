"""The arithmetic of the report: ranks, recalls, cosines, code usage. Tensors in, numbers out; no files, no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.errors import DataError

_BLOCK_QUERIES = 1024  # rows of the similarity matrix held at a time, so memory does not grow with queries x candidates


@dataclass(frozen=True)
class Ranks:
    """Where each query's best right candidate stands; int64 [N] each.

    `better`: wrong candidates with a higher score. `tied_wrong`, `tied_right`: candidates whose score equals that of
    the best right one (which counts itself).
    """

    better: Tensor
    tied_wrong: Tensor
    tied_right: Tensor

    def hit_probability(self, k: int) -> Tensor:
        """Float64 [N]: chance that a right candidate is among the first k when ties are broken at random.

        With w wrong and r right candidates tied for s = k - better places, a miss means that all s places go to wrong
        ones: C(w, s) / C(w + r, s). So a model that gives everything the same score gets exactly chance level, where
        counting ties as hits would give it a perfect score.
        """
        places = k - self.better
        miss = torch.ones_like(self.better, dtype=torch.float64)
        for taken in range(k):
            wrong = (self.tied_wrong - taken).clamp(min=0).double()
            left = (self.tied_wrong + self.tied_right - taken).clamp(min=1).double()
            miss = torch.where(taken < places, miss * wrong / left, miss)
        return 1 - miss

    def recall(self, k: int) -> float:
        """Recall@k, a fraction of 1."""
        return float(self.hit_probability(k).mean())


def retrieval_ranks(query: Tensor, candidate: Tensor, query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Ranks by inner product of queries [N, D] among candidates [M, D]; right are those of the query's group.

    Groups (int64 [N], [M]) say what is interchangeable: images whose captions are the same text share one, so finding
    the twin's caption is a hit. All M candidates keep their places, as in protocols with several captions per image.
    Every query needs at least one right candidate.
    """
    parts = []
    for start in range(0, len(query), _BLOCK_QUERIES):
        block = slice(start, start + _BLOCK_QUERIES)
        scores = query[block].float() @ candidate.float().T
        right = query_group[block, None] == candidate_group[None, :]
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        tied = scores == best
        parts.append(((~right & (scores > best)).sum(1), (~right & tied).sum(1), (right & tied).sum(1)))
    better, tied_wrong, tied_right = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if bool((tied_right == 0).any()):
        raise ValueError("a query has no right candidate, or the features are not finite")
    return Ranks(better, tied_wrong, tied_right)


def chance_ranks(query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Ranks when nothing is known and all tie: recall@k is k / M where no caption repeats, a little more otherwise."""
    sizes = torch.bincount(candidate_group, minlength=int(query_group.max()) + 1)
    right = sizes[query_group]
    return Ranks(torch.zeros_like(right), len(candidate_group) - right, right)


def require_finite(values: Tensor, stage: str) -> Tensor:
    """The values; DataError where some are not finite, because every comparison with them would be false."""
    if not bool(torch.isfinite(values).all()):
        raise DataError(
            f"the model of stage {stage} gives values that are not finite; its training diverged. Look at the "
            f"losses in {stage}/journal.jsonl, lower the learning rate and train the stage again."
        )
    return values


def text_groups(captions: Sequence[str]) -> Tensor:
    """Int64 [N]: equal texts (apart from white space) get equal numbers."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(" ".join(text.split()), len(numbers)) for text in captions])


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine along the last axis; shapes broadcast. In float64, so that the mean does not depend on batching."""
    return float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean())


def standard_error(fraction: float, n: int) -> float:
    """Of a fraction of n independent trials: sqrt(p (1 - p) / n)."""
    return (fraction * (1 - fraction) / max(1, n)) ** 0.5


def perplexity(counts: Tensor) -> float:
    """exp of the entropy (in nats) of these counts: how many equally used codes would have the same entropy."""
    share = counts[counts > 0].double() / counts.sum()
    return float((-(share * share.log()).sum()).exp())
