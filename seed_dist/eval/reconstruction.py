"""How much of the continuous vectors the codes keep: cosines beside what predicting the mean would get."""

from __future__ import annotations

from torch import Tensor

from seed_dist.eval.metrics import mean_cosine


def score_reconstruction(rebuilt: Tensor, causal: Tensor, mean: Tensor) -> dict[str, float]:
    """Causal embeddings rebuilt from codes against the true ones, both [N, Q, W]; `mean` [Q, W] is another split's.

    The vectors of one position share a common direction, so the plain cosine is high for any predictor
    (`baseline_cosine` is that of the mean); the centred cosine takes that direction away from both sides.
    `last_cosine_centered` is that of the last position alone, all that retrieval reads.
    """
    found, wanted = rebuilt.double() - mean.double(), causal.double() - mean.double()
    return {
        "cosine": mean_cosine(rebuilt, causal),
        "cosine_centered": mean_cosine(found, wanted),
        "last_cosine_centered": mean_cosine(found[:, -1], wanted[:, -1]),
        "baseline_cosine": mean_cosine(mean.expand_as(causal), causal),
    }


def score_generation(generated: Tensor, target: Tensor, mean: Tensor) -> dict[str, float]:
    """Generation embeddings from codes against the frozen encoder's, both [N, E] or [N, T, E]; `mean` without the N."""
    target = target.reshape(generated.shape)
    return {
        "generation_cosine": mean_cosine(generated, target),
        "generation_baseline": mean_cosine(mean.reshape(generated.shape[1:]).expand_as(target), target),
    }
