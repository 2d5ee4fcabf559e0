"""The loss of each tokenizer stage on random inputs, with the real modules: what the plan's formulas are counted on."""

from __future__ import annotations

import torch
from torch import Tensor

from seed_dist.config import Recipe
from seed_dist.losses import codebook_losses, contrastive_loss
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer


class CausalQFormerStep:
    """Stage 1's forward pass; `ranks` repeats the gathered features, as a gather without gradient gives them."""

    def __init__(self, recipe: Recipe, patches: int, batch: int, ranks: int, device: str) -> None:
        q = recipe.qformer
        self.recipe, self.ranks = recipe, ranks
        texts = batch * (2 if q.exchanged_negatives else 1)
        with torch.device(device):
            self.module = CausalQFormer(q).train()
            self.patches = torch.empty(batch, patches, q.vision_width).normal_()
            self.ids = torch.zeros(texts, q.max_text_tokens, dtype=torch.long)
            self.mask = torch.ones(texts, q.max_text_tokens, dtype=torch.long)

    def loss(self) -> Tensor:
        model, captions = self.module, len(self.patches)
        image = model.image_feature(model.embed_image(self.patches, last_only=True))
        text = model.text_feature(model.embed_text(self.ids, self.mask))
        negatives = text[captions:] if len(text) > captions else None
        smoothing = self.recipe.qformer.label_smoothing
        return contrastive_loss(image, text[:captions], model.temperature, smoothing, self._gather, negatives=negatives)

    def _gather(self, feature: Tensor) -> Tensor:
        repeated = torch.cat([feature] * self.ranks)
        return repeated if self.recipe.qformer.gather_with_gradient else repeated.detach()


class CodebookStep:
    """Stage 2's forward pass."""

    def __init__(self, recipe: Recipe, batch: int, device: str) -> None:
        q, c = recipe.qformer, recipe.codebook
        self.recipe = recipe
        target = (c.generation_width,) if c.head_queries == 1 else (c.head_queries, c.generation_width)
        with torch.device(device):
            self.module = SeedQuantizer.for_qformer(c, q).train()
            self.causal = torch.empty(batch, q.queries, q.width).normal_()
            self.target = torch.empty(batch, *target).normal_()

    def loss(self) -> Tensor:
        losses = codebook_losses(self.module(self.causal), self.causal, self.target, self.recipe.codebook)
        return losses["loss"]
