"""Exact retrieval: where each query's best right candidate stands, ties included, in bounded memory.

Scores are computed in blocks of queries x candidates and never all at once, so a million candidates fit. Two passes
over the blocks of a query: the best right score, then how many candidates are better and how many are as good. Queries
and candidates are sorted by group first, so that the first pass meets few blocks; what it computed is kept for the
second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# [1024, 4096] scores in fp32 are 16 MiB; so many blocks of them are kept between the passes.
BLOCK = (1024, 4096)
_KEPT_BLOCKS = 4
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
    device of the queries. Blocks are filled up with zeros to one shape, so that equal vectors get equal scores wherever
    they stand.
    """
    if not (bool(query.isfinite().all()) and bool(candidate.isfinite().all())):
        raise ValueError("the features are not finite")
    query_order, candidate_order = query_group.argsort(stable=True), candidate_group.argsort(stable=True)
    groups, wanted = candidate_group[candidate_order].contiguous(), query_group[query_order].contiguous()
    first, behind = torch.searchsorted(groups, wanted), torch.searchsorted(groups, wanted, right=True)
    if bool((first == behind).any()):
        raise ValueError("a query has no right candidate")
    rows, columns = block[0], -(-block[1] // _LANES) * _LANES
    blocks = [_padded(candidate[part].float(), columns) for part in candidate_order.split(columns)]
    counts = torch.zeros(3, len(query), dtype=torch.int64)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        queries = _padded(query[query_order[part]].float(), rows)
        counts[:, query_order[part].cpu()] = _count(queries, blocks, len(candidate), first[part], behind[part]).cpu()
    return Ranks(counts[0], counts[1], counts[2])


def _count(queries: Tensor, blocks: list[Tensor], candidates: int, first: Tensor, behind: Tensor) -> Tensor:
    """(better, tied wrong, tied right) int64 [3, B] of a block of queries whose right ones are first .. behind - 1."""
    count, columns = len(first), len(blocks[0])
    kept: dict[int, Tensor] = {}

    def scores(number: int) -> Tensor:
        """[B, columns]; what fills up the last block is below everything."""
        if number in kept:
            return kept.pop(number)
        values = (queries @ blocks[number].T)[:count]
        values[:, candidates - number * columns :] = -torch.inf
        return values

    best = queries.new_full((count,), -torch.inf)
    better, tied, tied_right = (torch.zeros(count, dtype=torch.int64, device=queries.device) for _ in range(3))
    for number in range(int(first.min()) // columns, (int(behind.max()) - 1) // columns + 1):
        values = scores(number)
        right = _right_ones(values, first - number * columns, behind - number * columns)
        higher = torch.maximum(best, right.amax(1))
        tied_right = tied_right * (best == higher) + (right == higher[:, None]).sum(1)
        best = higher
        if len(kept) < _KEPT_BLOCKS:
            kept[number] = values
    for number in range(len(blocks)):
        values = scores(number)
        some = (values.amax(1) >= best).nonzero().flatten()  # torch's amax is vectorised on CPUs, its counting is not
        if len(some):
            values, least = values[some], best[some, None]
            better[some] += _trues(values > least)
            tied[some] += _trues(values == least)
    return torch.stack([better, tied - tied_right, tied_right])


def _right_ones(values: Tensor, first: Tensor, behind: Tensor) -> Tensor:
    """Of each row of scores [B, C] those at places first .. behind - 1 that it has, [B, most]; others are -inf."""
    first, behind = first.clamp(0, values.shape[1]), behind.clamp(0, values.shape[1])
    most = max(1, int((behind - first).max()))
    places = first[:, None] + torch.arange(most, device=values.device)
    found = values.gather(1, places.clamp(max=values.shape[1] - 1))
    return found.masked_fill(places >= behind[:, None], -torch.inf)


def _trues(mask: Tensor) -> Tensor:
    """How many of each row [B, C] are true, int64 [B]; C is a multiple of 8. Eight at a time, as bytes of one number,
    which at most 255 additions cannot make overflow: several times faster than `mask.sum(1)`.
    """
    lanes = mask.contiguous().view(torch.int64)
    sums = torch.stack([part.sum(1) for part in lanes.split(255, dim=1)], dim=1)
    return sums.view(torch.uint8).sum(1, dtype=torch.int64)


def _padded(rows: Tensor, count: int) -> Tensor:
    """[n, D] -> [count, D]."""
    return rows if len(rows) == count else torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])


def chance_ranks(query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Ranks when nothing is known and all tie: recall@k is k / M where no group repeats, a little more otherwise."""
    sizes = torch.bincount(candidate_group, minlength=int(query_group.max()) + 1)
    right = sizes[query_group]
    return Ranks(torch.zeros_like(right), len(candidate_group) - right, right)
