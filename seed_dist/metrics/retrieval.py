"""Exact retrieval: where each query's best right candidate stands, ties included, in bounded memory.

Scores are computed in blocks of queries x candidates and never all at once, so a million candidates fit. Two passes
over the blocks: the best right score, then how many candidates are better and how many are as good. Queries and
candidates are sorted by group first, so that the first pass meets few blocks, near the diagonal; some are kept for the
second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# [1024, 4096] scores in fp32 are 16 MiB; at most so many blocks of them are kept between the passes.
BLOCK = (1024, 4096)
_KEPT_BLOCKS = 16
_LANES = 8  # bytes of an int64


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


def retrieval_ranks(
    query: Tensor, candidate: Tensor, query_group: Tensor, candidate_group: Tensor, block: tuple[int, int] = BLOCK
) -> Ranks:
    """Ranks by inner product of queries [N, D] among candidates [M, D]; right are those of the query's group.

    Groups (int64 [N], [M]) say what belongs together: an image and its captions, or images whose captions are the same
    text. All M candidates keep their places. Every query needs at least one right candidate. Scores are in fp32, on the
    device of the queries. Blocks are filled up to one shape, so that equal vectors get equal scores anywhere.
    """
    side, other = _sides(query, candidate, query_group, candidate_group, block)
    return _ranks(side, other, both=False)[0]


def ranks_both_ways(
    image: Tensor, text: Tensor, image_group: Tensor, text_group: Tensor, block: tuple[int, int] = BLOCK
) -> tuple[Ranks, Ranks]:
    """Ranks of images among texts and of texts among images, as `retrieval_ranks`, for the scores of one of them."""
    side, other = _sides(image, text, image_group, text_group, block)
    return _ranks(side, other, both=True)


class _Side:
    """Vectors [N, D] sorted by group and cut into blocks of `size` rows, the last one filled up with zeros; and what is
    found for each: the best right score, and counts.
    """

    def __init__(self, vectors: Tensor, group: Tensor, size: int) -> None:
        if not bool(vectors.isfinite().all()):
            raise ValueError("the features are not finite")
        self.size, self.count = -(-size // _LANES) * _LANES, len(vectors)
        self.order = group.argsort(stable=True)
        self.group = group[self.order].contiguous()
        padding = vectors.new_zeros(-len(vectors) % self.size, vectors.shape[1])
        self.blocks = torch.cat([vectors[self.order], padding]).float().split(self.size)
        self.best = self.blocks[0].new_full((self.count,), -torch.inf)
        self.better, self.tied, self.tied_right = torch.zeros(3, self.count, dtype=torch.int64, device=vectors.device)

    def find_right_among(self, other: _Side) -> None:
        """Where the right ones of each stand among the other side's: first .. behind - 1."""
        self.first = torch.searchsorted(other.group, self.group)
        self.behind = torch.searchsorted(other.group, self.group, right=True)

    def part(self, number: int) -> slice:
        """Which of the vectors a block holds."""
        return slice(number * self.size, min((number + 1) * self.size, self.count))

    def see_right(self, part: slice, values: Tensor, start: int) -> None:
        """First pass: scores [R, C] of a part with candidates `start`, `start` + 1, ..."""
        first, behind = ((place[part] - start).clamp(0, values.shape[1]) for place in (self.first, self.behind))
        places = first[:, None] + torch.arange(max(1, int((behind - first).max())), device=values.device)
        right = values.gather(1, places.clamp(max=values.shape[1] - 1)).masked_fill(
            places >= behind[:, None], -torch.inf
        )
        higher = torch.maximum(self.best[part], right.amax(1))
        self.tied_right[part] *= self.best[part] == higher
        self.tied_right[part] += (right == higher[:, None]).sum(1)
        self.best[part] = higher

    def see_all(self, part: slice, values: Tensor) -> None:
        """Second pass. Only rows in which something is as good are counted: torch's `amax` is vectorised on CPUs."""
        some = (values.amax(1) >= self.best[part]).nonzero().flatten()
        if len(some):
            values, least = values[some].contiguous(), self.best[part][some, None]
            self.better[part][some] += _trues(values > least)
            self.tied[part][some] += _trues(values == least)

    def ranks(self) -> Ranks:
        """In the order in which the vectors were given."""
        found = torch.stack([self.better, self.tied - self.tied_right, self.tied_right])
        back = torch.empty_like(found).index_copy_(1, self.order, found).cpu()
        return Ranks(*back)


def _sides(a: Tensor, b: Tensor, a_group: Tensor, b_group: Tensor, block: tuple[int, int]) -> tuple[_Side, _Side]:
    sides = _Side(a, a_group, block[0]), _Side(b, b_group, block[1])
    sides[0].find_right_among(sides[1])
    sides[1].find_right_among(sides[0])
    return sides


def _ranks(rows: _Side, columns: _Side, both: bool) -> tuple[Ranks, Ranks]:
    """Of the rows, and with `both` of the columns (otherwise theirs mean nothing)."""
    if bool((rows.first == rows.behind).any()) or (both and bool((columns.first == columns.behind).any())):
        raise ValueError("a query has no right candidate")
    kept: dict[tuple[int, int], Tensor] = {}
    for r in range(len(rows.blocks)):
        part = rows.part(r)
        for c in range(
            int(rows.first[part].min()) // columns.size, (int(rows.behind[part].max()) - 1) // columns.size + 1
        ):
            values = _scores(rows, columns, r, c)
            rows.see_right(part, values[: part.stop - part.start], c * columns.size)
            if both:
                of_columns = columns.part(c)
                columns.see_right(of_columns, values.T[: of_columns.stop - of_columns.start], r * rows.size)
            if len(kept) < _KEPT_BLOCKS:
                kept[r, c] = values
    for r in range(len(rows.blocks)):
        for c in range(len(columns.blocks)):
            values = kept.pop((r, c)) if (r, c) in kept else _scores(rows, columns, r, c)
            part, of_columns = rows.part(r), columns.part(c)
            rows.see_all(part, values[: part.stop - part.start])
            if both:
                columns.see_all(of_columns, values.T[: of_columns.stop - of_columns.start])
    return rows.ranks(), columns.ranks()


def _scores(rows: _Side, columns: _Side, r: int, c: int) -> Tensor:
    """One block of scores; what fills up the last ones is below everything."""
    values = rows.blocks[r] @ columns.blocks[c].T
    values[rows.count - r * rows.size :] = -torch.inf
    values[:, columns.count - c * columns.size :] = -torch.inf
    return values


def _trues(mask: Tensor) -> Tensor:
    """How many of each row [B, C] are true, int64 [B]; C is a multiple of 8. Eight at a time, as bytes of one number,
    which at most 255 additions cannot make overflow: several times faster than `mask.sum(1)`.
    """
    lanes = mask.view(torch.int64)
    sums = torch.stack([part.sum(1) for part in lanes.split(255, dim=1)], dim=1)
    return sums.view(torch.uint8).sum(1, dtype=torch.int64)


def chance_ranks(query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Ranks when nothing is known and all tie: recall@k is k / M where no group repeats, a little more otherwise."""
    sizes = torch.bincount(candidate_group, minlength=int(query_group.max()) + 1)
    right = sizes[query_group]
    return Ranks(torch.zeros_like(right), len(candidate_group) - right, right)
