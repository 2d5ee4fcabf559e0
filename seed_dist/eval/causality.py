"""Exact check of the trained model: what comes later must not change what came earlier, not even in the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seed_dist.eval.metrics import require_finite
from seed_dist.models.qformer import CausalQFormer

_NOISE = 10.0  # in standard deviations of the learned queries: far outside anything seen in training


@torch.no_grad()
def check(model: CausalQFormer, patch_features: Tensor, seed: int) -> dict[str, Any]:
    """Replace queries j, j+1, ... for every j by noise and by zeros, and compare embeddings 0 .. j-1 bit by bit.

    patch_features [B, P, V]; a few images do, since the structure decides. `max_violation` is the largest difference
    seen (0.0 exactly when causal); `min_effect` the smallest change that a replacement made at or after j: were it 0,
    the check would prove nothing.
    """
    model.eval()
    reference = require_finite(model.embed_image(patch_features), "causal_qformer")
    generator = torch.Generator().manual_seed(seed)
    queries = model.query_tokens.detach().clone()
    noise = torch.randn(queries.shape, generator=generator).to(queries) * queries.std() * _NOISE
    violations, effects = [], []
    for position in range(1, model.config.queries):
        for substitute in (noise, torch.zeros_like(queries)):
            with _later_queries(model, substitute, position):
                changed = (model.embed_image(patch_features) - reference).abs()
            violations.append(float(changed[:, :position].max()))
            effects.append(float(changed[:, position:].max()))
    return {
        "max_violation": max(violations, default=0.0),
        "min_effect": min(effects, default=0.0),
        "comparisons": len(violations),
        "images": len(patch_features),
    }


@contextmanager
def _later_queries(model: CausalQFormer, substitute: Tensor, position: int) -> Iterator[None]:
    """The model with its queries from `position` on taken from `substitute`, inside the block."""
    original = model.query_tokens.data
    model.query_tokens.data = torch.cat([original[:, :position], substitute[:, position:]], dim=1)
    try:
        yield
    finally:
        model.query_tokens.data = original
