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
    query_order, candidate_order = query_group.argsort(stable=True), candidate_group.argsort(stable=True)
    groups = candidate_group[candidate_order].contiguous()
    wanted = query_group[query_order].contiguous()
    first, behind = torch.searchsorted(groups, wanted), torch.searchsorted(groups, wanted, right=True)
    if bool((first == behind).any()):
        raise ValueError("a query has no right candidate")
    rows, columns = block
    blocks = [_padded(candidate[part].float(), columns) for part in candidate_order.split(columns)]
    counts = torch.zeros(3, len(query), dtype=torch.int64)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        queries = _padded(query[query_order[part]].float(), rows)
        counts[:, query_order[part].cpu()] = _count(queries, blocks, len(candidate), first[part], behind[part]).cpu()
    if bool((counts[2] == 0).any()):
        raise ValueError("the features are not finite")
    return Ranks(counts[0], counts[1], counts[2])


def _count(queries: Tensor, blocks: list[Tensor], candidates: int, first: Tensor, behind: Tensor) -> Tensor:
    """(better, tied wrong, tied right) int64 [3, B] of a block of queries whose right ones are first .. behind - 1."""
    count, columns = len(first), len(blocks[0])
    kept: dict[int, Tensor] = {}

    def scores(number: int) -> Tensor:
        """[B, columns], without the blocks' filling."""
        if number in kept:
            return kept.pop(number)
        return (queries @ blocks[number].T)[:count, : candidates - number * columns]

    best = queries.new_full((count, 1), -torch.inf)
    right_blocks = range(int(first.min()) // columns, (int(behind.max()) - 1) // columns + 1)
    for number in right_blocks:
        values = scores(number)
        best = torch.maximum(
            best,
            values.masked_fill(~_is_right(values, number * columns, first, behind), -torch.inf).amax(1, keepdim=True),
        )
        if len(kept) < _KEPT_BLOCKS:
            kept[number] = values
    better, tied, tied_right = (torch.zeros(count, dtype=torch.int64, device=queries.device) for _ in range(3))
    for number in range(len(blocks)):
        values = scores(number)
        better += (values > best).sum(1)
        equal = values == best
        tied += equal.sum(1)
        if number in right_blocks:
            tied_right += (equal & _is_right(values, number * columns, first, behind)).sum(1)
    return torch.stack([better, tied - tied_right, tied_right])


def _is_right(values: Tensor, start: int, first: Tensor, behind: Tensor) -> Tensor:
    places = torch.arange(start, start + values.shape[1], device=values.device)
    return (places >= first[:, None]) & (places < behind[:, None])


def _padded(rows: Tensor, count: int) -> Tensor:
    """[n, D] -> [count, D]."""
    return rows if len(rows) == count else torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])


def chance_ranks(query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Ranks when nothing is known and all tie: recall@k is k / M where no group repeats, a little more otherwise."""
    sizes = torch.bincount(candidate_group, minlength=int(query_group.max()) + 1)
    right = sizes[query_group]
    return Ranks(torch.zeros_like(right), len(candidate_group) - right, right)
