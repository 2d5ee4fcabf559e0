"""Health of the codebook on a split: a few codes used for everything would mean that the tokenizer collapsed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seed_dist.errors import MismatchError
from seed_dist.eval.metrics import perplexity
from seed_dist.models.code_spacing import nearest_other, spacing_of


def score(codes: Tensor, size: int) -> dict[str, Any]:
    """Usage of a codebook of `size` entries by codes [N, Q].

    `used_fraction`: share of entries that occur; `perplexity`: exp of the entropy of all ids together (at most `size`);
    `position_perplexity`: the same for each of the Q positions; `counts`: how often each id occurs.
    """
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= size:
        raise MismatchError(
            "range of the stored codes",
            (low, high),
            (0, size - 1),
            "They come from another codebook: encode codes again.",
        )
    counts = torch.bincount(codes.flatten(), minlength=size)
    positions = [torch.bincount(column, minlength=size) for column in codes.T]
    return {
        "size": size,
        "used_fraction": float((counts > 0).double().mean()),
        "perplexity": perplexity(counts),
        "position_perplexity": [perplexity(column) for column in positions],
        "counts": counts.tolist(),
    }


def spacing(code_vectors: Tensor) -> dict[str, Any]:
    """How far the codes [K, c] of the exported codebook lie from their nearest other ones."""
    nearest = nearest_other(code_vectors).tolist()
    return {"spacing": spacing_of(code_vectors)._asdict(), "nearest_distances": nearest}
