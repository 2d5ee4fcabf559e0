"""The arithmetic of the report: cosines, code usage, groups of texts. Tensors in, numbers out; no files, no models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.eval.units import PerUnit


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


def mean_cosine(a: Tensor, b: Tensor) -> PerUnit:
    """Mean cosine along the last axis of [N, ..., D]; shapes broadcast, and the first axis holds the units. In float64,
    so that the mean does not depend on batching.
    """
    cosines = F.cosine_similarity(a.double(), b.double(), dim=-1)
    return PerUnit(cosines.reshape(len(cosines), -1).mean(1).cpu().numpy())


def perplexity(counts: Tensor) -> float:
    """exp of the entropy (in nats) of these counts: how many equally used codes would have the same entropy."""
    share = counts[counts > 0].double() / counts.sum()
    return float((-(share * share.log()).sum()).exp())
