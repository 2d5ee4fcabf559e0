"""The losses of both tokenizer stages: pure functions of tensors; what crosses ranks is a function passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.config import CodebookConfig

Gather = Callable[[Tensor], Tensor]


class QuantizerTerms(Protocol):
    """Unweighted scalars, as in `models.quantizer.Quantized`."""

    @property
    def commitment(self) -> Tensor: ...
    @property
    def codebook(self) -> Tensor: ...
    @property
    def entropy(self) -> Tensor: ...


class CodebookOutput(Protocol):
    """What stage 2's model returns, as `models.tokenizer.SeedOutput`."""

    @property
    def quantized(self) -> QuantizerTerms: ...
    @property
    def reconstructed(self) -> Tensor: ...
    @property
    def generation(self) -> Tensor: ...


def contrastive_loss(
    image_feature: Tensor,
    text_feature: Tensor,
    temperature: Tensor,
    label_smoothing: float = 0.0,
    gather: Gather = lambda feature: feature,
    first_row: int = 0,
    negatives: Tensor | None = None,
) -> Tensor:
    """Symmetric cross entropy of one rank's pairs against all ranks' features; scalar, fp32.

    `image_feature`, `text_feature`: unit vectors [B, D] of this rank; row i belongs to column `first_row` + i.
    `negatives` [B, D] are further texts that describe none of the images. `gather` concatenates [B, D] over ranks in
    rank order. The mean of this loss over ranks, weighted by their B, equals the loss of one rank that holds all pairs.
    So does the mean of its gradients over ranks if `gather` has a gradient, namely the *sum* over ranks of the
    gradients that reach a rank's features. The published code gathers without gradient.
    """
    image_feature, text_feature = image_feature.float(), text_feature.float()
    targets = torch.arange(len(image_feature), device=image_feature.device) + first_row
    candidates = gather(text_feature)
    if negatives is not None:
        candidates = torch.cat([candidates, gather(negatives.float())])
    image_to_text = image_feature @ candidates.T / temperature.float()
    text_to_image = text_feature @ gather(image_feature).T / temperature.float()
    forward = F.cross_entropy(image_to_text, targets, label_smoothing=label_smoothing)
    backward = F.cross_entropy(text_to_image, targets, label_smoothing=label_smoothing)
    return (forward + backward) / 2


def quantizer_loss(quantized: QuantizerTerms, config: CodebookConfig, commitment_factor: float = 1.0) -> Tensor:
    """Commitment and codebook terms with their weights (published: 1 and 0.25), plus the entropy term.

    `commitment_factor` is what a remedy for a collapse has made of the first weight.
    """
    return (
        commitment_factor * config.commitment_weight * quantized.commitment
        + config.codebook_weight * quantized.codebook
        + config.entropy_loss_weight * quantized.entropy
    )


def reconstruction_loss(reconstructed: Tensor, causal: Tensor) -> Tensor:
    """Mean of 1 - cosine over all tokens of [B, Q, W]; `causal` is the target and gets no gradient."""
    return (1 - F.cosine_similarity(reconstructed.float(), causal.detach().float(), dim=-1)).mean()


def generation_loss(generation: Tensor, target: Tensor) -> Tensor:
    """Mean squared error against the frozen encoder's embedding, [B, G] or [B, N, G], un-normalised."""
    assert generation.shape == target.shape, f"generation {generation.shape} against target {target.shape}"
    return F.mse_loss(generation.float(), target.detach().float())


def codebook_losses(
    output: CodebookOutput, causal: Tensor, target: Tensor, config: CodebookConfig, commitment_factor: float = 1.0
) -> dict[str, Tensor]:
    """All terms of stage 2, unweighted, and `loss`, their weighted sum (published weights: 5, 2, 0.5)."""
    quantizer = quantizer_loss(output.quantized, config, commitment_factor)
    reconstruction = reconstruction_loss(output.reconstructed, causal)
    generation = generation_loss(output.generation, target)
    return {
        "loss": config.quantizer_loss_weight * quantizer
        + config.reconstruction_loss_weight * reconstruction
        + config.generation_loss_weight * generation,
        "quantizer": quantizer,
        "commitment": output.quantized.commitment,
        "codebook": output.quantized.codebook,
        "entropy": output.quantized.entropy,
        "reconstruction": reconstruction,
        "generation": generation,
    }
