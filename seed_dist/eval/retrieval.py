"""Image-text retrieval: recalls in both directions, chance level and shuffled captions beside them, examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.eval.metrics import require_finite, text_groups
from seed_dist.eval.units import PerUnit
from seed_dist.metrics.retrieval import Ranks, chance_ranks, ranks_both_ways

KS = (1, 5, 10)


@dataclass(frozen=True)
class Query:
    """One query and its first candidates, best first, as row numbers; `right` says which of them count as hits."""

    row: int
    found: list[int]
    right: list[bool]

    @property
    def is_hit(self) -> bool:
        return self.right[0]


def score(image: Tensor, text: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Recalls of image features [N, D] and text features [N, D], row i of both belonging to captions[i].

    Images with the same caption text are interchangeable: each one's caption is right for the other.
    """
    return _both_directions(image, text, text_groups(captions), text_groups(captions))


def score_shuffled(image: Tensor, text: Tensor, captions: Sequence[str], seed: int) -> dict[str, Any]:
    """The same with the captions dealt out anew: what remains is not due to the pairing, so it must be near chance."""
    groups = text_groups(captions)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    return _both_directions(image, text, groups[order], groups)


def score_chance(captions: Sequence[str]) -> dict[str, Any]:
    """What a model that knows nothing gets: k / N, and a little more where captions repeat."""
    ranks = chance_ranks(text_groups(captions), text_groups(captions))
    return _table(ranks, ranks)


def _both_directions(image: Tensor, text: Tensor, image_group: Tensor, text_group: Tensor) -> dict[str, Any]:
    image, text = unit(image), unit(text)
    return _table(*ranks_both_ways(image, text, image_group, text_group))


def _table(i2t: Ranks, t2i: Ranks) -> dict[str, Any]:
    """Recall@1/5/10 per direction and `r_mean`, the mean of the six. The unit is a picture with its caption."""
    hits = {(name, k): own.hit_probability(k).numpy() for name, own in (("i2t", i2t), ("t2i", t2i)) for k in KS}
    table = {name: {f"r{k}": PerUnit(hits[name, k]) for k in KS} for name in ("i2t", "t2i")}
    return {**table, "r_mean": PerUnit(np.mean(list(hits.values()), axis=0))}


def unit(features: Tensor) -> Tensor:
    """Features at length 1."""
    return F.normalize(require_finite(features, "causal_qformer").float(), dim=-1)


def queries(query: Tensor, candidate: Tensor, captions: Sequence[str], shown: int, depth: int) -> list[Query]:
    """About half hits and half misses (as far as there are any), the earliest rows of each, with `depth` candidates."""
    groups = text_groups(captions)
    found = (unit(query) @ unit(candidate).T).topk(min(depth, len(candidate)), dim=1).indices
    right = groups[found] == groups[:, None]
    every = [Query(i, found[i].tolist(), right[i].tolist()) for i in range(len(query))]
    hits, misses = [q for q in every if q.is_hit], [q for q in every if not q.is_hit]
    take_hits = max(shown // 2, shown - len(misses))
    return hits[:take_hits] + misses[: shown - len(hits[:take_hits])]
