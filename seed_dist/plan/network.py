"""Bytes that ZeRO-2 moves, and how long they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """Of one step. `rank_bytes` are sent by each rank; `node_bytes` cross a node's network cards in each direction."""

    rank_bytes: int
    node_bytes: int

    def seconds(self, network_bytes_s: float, link_bytes_s: float) -> float:
        """Rings between nodes and inside them run at the same time, so the slower one counts."""
        return max(self.node_bytes / network_bytes_s, self.rank_bytes / link_bytes_s)


def gradient_factor(zero: Mapping[str, Any]) -> int:
    """How often a gradient is moved: once by reduce-scatter, twice by the all-reduce that DeepSpeed makes of it.

    With `use_multi_rank_bucket_allreduce`, true unless said otherwise, ZeRO-2 all-reduces whole buckets although
    `reduce_scatter` is set (DeepSpeed 0.19, `average_tensor` of runtime/zero/stage_1_and_2.py).
    """
    scattered = zero.get("reduce_scatter", True) and not zero.get("use_multi_rank_bucket_allreduce", True)
    return 1 if scattered else 2


def zero2(trained_bytes: int, ranks: int, nodes: int, accumulation: int, factor: int) -> Traffic:
    """Gradients of every micro-batch (ZeRO-2 keeps only its part of them), then the new weights to all ranks.

    A ring over n moves (n-1)/n of the bytes once for a reduce-scatter and once for an all-gather (Patarasuk and Yuan
    2009): with factor 2 and no accumulation 3 P (n-1)/n, where plain data parallelism has 2 P (n-1)/n.
    """
    moved = (accumulation * factor + 1) * trained_bytes
    return Traffic(moved * (ranks - 1) // ranks, moved * (nodes - 1) // nodes)
