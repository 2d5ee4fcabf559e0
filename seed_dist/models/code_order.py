"""The order in which a language model reads and writes an image's codes: theirs, or one fixed shuffle as a control.

The tokenizer's codes run from left to right. Whether a language model profits from that is seen by giving it the same
codes in another order, the same one for every image: nothing is lost, only the order differs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Order = Literal["causal", "permuted"]
_SEED = 0  # of the shuffle: one for all runs, so that models of different seeds are comparable


def places(order: Order, queries: int) -> Tensor:
    """Int64 [Q]: place i of the sequence holds the code of position `places[i]`."""
    if order == "causal":
        return torch.arange(queries)
    return torch.randperm(queries, generator=torch.Generator().manual_seed(_SEED))


def as_written(codes: Tensor, order: Order) -> Tensor:
    """Codes [.., Q] by position -> by place in the sequence."""
    return codes[..., places(order, codes.shape[-1]).to(codes.device)]


def as_encoded(codes: Tensor, order: Order) -> Tensor:
    """The inverse of `as_written`."""
    return codes[..., places(order, codes.shape[-1]).argsort().to(codes.device)]
