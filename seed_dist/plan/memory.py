"""Bytes of a GPU that a rank holds: weights, gradients, its ZeRO-2 share of the optimizer, activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FP32 = 4
_MASTER_AND_MOMENTS = 3  # Adam: one fp32 copy of the weights and two moments


def shard(parameters: int, ranks: int) -> int:
    """Numbers of a rank's equal part; DeepSpeed fills groups up to a multiple of the ranks, a few numbers more."""
    return -(-parameters // ranks)


def states(trained: int, frozen: int, ranks: int, element: int, zero: Mapping[str, Any]) -> dict[str, int]:
    """What is there in every step, whatever the batch. `zero`: DeepSpeed's `zero_optimization`.

    The rank's part of the gradients is converted to fp32 for the update. Gradients leave through a bucket of
    `reduce_bucket_size` numbers, and a second one with `overlap_comm` (DeepSpeed 0.19, runtime/zero/stage_1_and_2.py).
    """
    part = shard(trained, ranks)
    buckets = int(zero["reduce_bucket_size"]) * (2 if zero.get("overlap_comm") else 1)
    converted = part * _FP32 if element < _FP32 else 0
    return {
        "weights": trained * element,
        "frozen": frozen * element,
        "gradients": part * element + converted,
        "buckets": buckets * element,
        "optimizer": _MASTER_AND_MOMENTS * _FP32 * part,
    }


def checkpoint(trained: int) -> int:
    """Bytes of a checkpoint's tensors: fp32 masters and moments of all ranks together."""
    return _MASTER_AND_MOMENTS * _FP32 * trained
