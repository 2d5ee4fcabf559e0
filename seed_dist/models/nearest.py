"""Nearest code by squared Euclidean distance, and k-means on top of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# fp32 scores at a time: 8 MiB stay in a CPU's cache, 256 MiB keep a GPU busy.
_SCORES_ON_CPU, _SCORES_ELSEWHERE = 1 << 21, 1 << 26
_GROUP = 128  # codes whose smallest score is found first
_SEEDING_ROUNDS = 32


def nearest_codes(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest row of `codes` [K, c] for each of `vectors` [N, c] -> int64 [N], the lowest index on ties.

    ||z - e||^2 = ||z||^2 + ||e||^2 - 2 z.e; the first term does not change the order, so ||e||^2 / 2 - z.e is
    compared: in fp32 the full sum loses the small differences between codes to rounding when ||z|| is large beside
    them. Works on blocks of vectors, so the [N, K] table never exists as a whole.

    The smallest score is looked for in two steps, the smallest of each group of codes and then the place within the
    best group: torch's `amin` is vectorised on the CPU, its `argmin` is not (`benchmarks/nearest_codes.py`).
    """
    vectors, codes = vectors.detach().float(), codes.detach().float()
    count, missing = len(codes), -len(codes) % _GROUP
    half_norms = F.pad(codes.square().sum(1) / 2, (0, missing), value=torch.inf)  # padding is never the nearest
    columns = F.pad(codes, (0, 0, 0, missing)).T.contiguous()
    scores = _SCORES_ON_CPU if vectors.device.type == "cpu" else _SCORES_ELSEWHERE
    rows = max(1, scores // len(half_norms))
    table = vectors.new_empty(min(rows, len(vectors)), len(half_norms))
    chosen = []
    for block in vectors.split(rows):
        groups = torch.addmm(half_norms, block, columns, alpha=-1, out=table[: len(block)]).unflatten(1, (-1, _GROUP))
        best = groups.amin(2).argmin(1)
        within = groups[torch.arange(len(block), device=block.device), best].argmin(1)
        chosen.append(best * _GROUP + within)
    return torch.cat(chosen).clamp_(max=count - 1)  # a vector that is no number gets some code, never padding


def k_means(vectors: Tensor, clusters: int, seed: int, iterations: int = 10) -> Tensor:
    """Centres [clusters, c] of `vectors` [N, c] by Lloyd's algorithm from spread-out vectors.

    Runs on the CPU in float32: equal arguments give equal centres on one machine. A centre that loses all its vectors
    is put on a vector that is badly served. With fewer vectors than clusters, vectors are repeated with a little noise.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = _at_least(vectors.detach().float().cpu(), clusters, generator)
    centres = vectors[_spread_out(vectors, clusters, generator)]
    for _ in range(iterations):
        assigned = nearest_codes(vectors, centres)
        counts = torch.bincount(assigned, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, assigned, vectors)
        distances = (vectors - centres[assigned]).square().sum(1)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = counts == 0
        centres[empty] = vectors[distances.topk(int(empty.sum())).indices]
    return centres


def _spread_out(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` distinct vectors, drawn with probability proportional to the squared distance from those
    drawn before.

    k-means++ for up to 32 clusters; for more, several are drawn between two updates of the distances.
    """
    chosen = torch.randint(len(vectors), (1,), generator=generator)
    distances = torch.full((len(vectors),), torch.inf)
    newest = chosen
    while len(chosen) < count:
        centres = vectors[newest]
        gaps = (vectors - centres[nearest_codes(vectors, centres)]).square().sum(1)
        distances = torch.minimum(distances, gaps)
        odds = distances / distances.max().clamp(min=1e-30) + 1e-9  # never too few to draw from
        odds[chosen] = 0
        size = min(-(-count // _SEEDING_ROUNDS), count - len(chosen))
        newest = torch.multinomial(odds, size, replacement=False, generator=generator)
        chosen = torch.cat([chosen, newest])
    return chosen


def _at_least(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`vectors`, followed by noisy repetitions until there are `count`."""
    assert len(vectors) > 0, "k-means needs at least one vector"
    missing = count - len(vectors)
    if missing <= 0:
        return vectors
    repeated = vectors[torch.randint(len(vectors), (missing,), generator=generator)]
    noise = torch.randn(repeated.shape, generator=generator) * vectors.std(unbiased=False).clamp(min=1e-6) * 0.01
    return torch.cat([vectors, repeated + noise])
