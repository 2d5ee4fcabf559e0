"""Stage 1: the Causal Q-Former and its text path by contrastive loss on the last query, from cached patch features."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed_dist.assets import resolve
from seed_dist.config import Recipe
from seed_dist.data.reader import Buffers
from seed_dist.dist.comm import Comm, gather_rows
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.losses import contrastive_loss
from seed_dist.models.captions import CaptionTokenizer, exchanged
from seed_dist.models.qformer import CausalQFormer
from seed_dist.train.data import StageData
from seed_dist.train.stages.base import CAPTIONS_LOOKED_AT, Ids, Stage, warn_of_unknown_words
from seed_dist.train.state import coins, derived_seed


class CausalQFormerStage(Stage):
    """Trains `qformer` with its projections, temperature and `ln_vision`."""

    def __init__(self, recipe: Recipe, data: StageData, comm: Comm) -> None:
        super().__init__(recipe, data, comm, recipe.causal_qformer_training.micro_batch)
        self.tokenizer = CaptionTokenizer(recipe.backbones.text_tokenizer, recipe.qformer.max_text_tokens)
        _check(recipe, data, len(self.tokenizer))
        unknown = self.tokenizer.unknown_share(data.some_captions(CAPTIONS_LOOKED_AT))
        warn_of_unknown_words(unknown, recipe.backbones.text_tokenizer, comm)
        self.qformer = CausalQFormer(recipe.qformer)
        gather = comm.gather_with_gradient if recipe.qformer.gather_with_gradient else comm.gather
        self._gather = partial(gather_rows, gather, rows=self.rows)

    @property
    def validation_samples(self) -> int:
        return self.recipe.causal_qformer_training.validation_samples

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        image, text = self._features(batch)
        captions = len(image)  # exchanged captions follow the true ones
        loss = contrastive_loss(
            image,
            text[:captions],
            self.qformer.temperature,
            self.recipe.qformer.label_smoothing,
            self._gather,
            sum(self.rows[: self.comm.rank]),
            text[captions:] * batch["is_changed"] if "is_changed" in batch else None,
        )
        return self.share(loss), {"temperature": self.qformer.temperature.detach().float()}

    def prepare(self) -> None:
        """Start from a trained Q-Former, if the recipe names one."""
        if self.recipe.backbones.qformer is not None:
            self.qformer.start_from(resolve(self.recipe.backbones.qformer, "qformer"))

    def make_batch(self, ids: Ids, step: int, out: Buffers | None = None) -> dict[str, Tensor]:
        captions = self.training_captions(ids, step)
        patches = self.data.train.read(ids, out, self.drawn_views(ids, step))["patches"]
        if not self.recipe.qformer.exchanged_negatives:
            return self._batch(patches, captions)
        wholes = coins(ids, derived_seed(self.recipe.seed, "exchange", step)) < 0.5
        others = [exchanged(caption, 2 if whole else 1) for caption, whole in zip(captions, wholes, strict=True)]
        batch = self._batch(
            patches, captions + [other or caption for other, caption in zip(others, captions, strict=True)]
        )
        # A caption that cannot be changed stands in for itself; its feature is multiplied by 0, so it is like no image.
        return {**batch, "is_changed": torch.tensor([[float(other is not None)] for other in others])}

    def validate(self, batches: Iterable[Ids]) -> dict[str, float]:
        """Share of validation images whose own caption (or an equal one) is the nearest of all, and the reverse."""
        own_captions: list[str] = []
        width = self.recipe.qformer.projection_width
        images, texts = [np.zeros((0, width), np.float32)], [np.zeros((0, width), np.float32)]
        for ids in batches:
            captions = [self.data.val.captions[i] for i in ids]
            own_captions += captions
            batch = self._batch(self.data.val.read(ids)["patches"], captions)
            image, text = self._features({key: value.to(self.comm.device) for key, value in batch.items()})
            images.append(image.float().cpu().numpy())
            texts.append(text.float().cpu().numpy())
        parts = self.comm.gather_objects((np.concatenate(images), np.concatenate(texts), own_captions))
        image_features = np.concatenate([part[0] for part in parts])
        text_features = np.concatenate([part[1] for part in parts])
        labels = np.unique([caption for part in parts for caption in part[2]], return_inverse=True)[1]
        return {
            "i2t_r1": recall_at_1(image_features, text_features, labels),
            "t2i_r1": recall_at_1(text_features, image_features, labels),
            "validation_samples": float(len(labels)),
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        self.qformer.save_pretrained(folder, self.recipe.backbones, provenance)

    def _features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Unit vectors [B, D] of images and captions."""
        image = self.qformer.image_feature(self.qformer.embed_image(batch["patches"], last_only=True))
        text = self.qformer.text_feature(self.qformer.embed_text(batch["input_ids"], batch["attention_mask"]))
        return image, text

    def _batch(self, patches: npt.NDArray[Any], captions: list[str]) -> dict[str, Tensor]:
        input_ids, attention_mask = self.tokenizer(captions)
        return {"patches": torch.from_numpy(patches), "input_ids": input_ids, "attention_mask": attention_mask}


def recall_at_1(queries: npt.NDArray[Any], targets: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Share of `queries` [N, D] whose most similar of `targets` [N, D] has the same label [N]."""
    nearest = (queries @ targets.T).argmax(axis=1)
    return float((labels[nearest] == labels).mean())


def _check(recipe: Recipe, data: StageData, vocabulary: int) -> None:
    """What the recipe says about its inputs must be what they are."""
    if recipe.causal_qformer_training.accumulation > 1:
        raise ConfigError(
            [
                f"causal_qformer_training.accumulation is {recipe.causal_qformer_training.accumulation}, but the "
                "contrastive loss compares each pair with its whole micro-batch: accumulating would train with fewer "
                "negatives. Set it to 1 and use more ranks, or a smaller global_batch."
            ]
        )
    if vocabulary > recipe.qformer.vocabulary_size:
        raise ConfigError(
            [
                f"qformer.vocabulary_size is {recipe.qformer.vocabulary_size}, but {recipe.backbones.text_tokenizer} "
                f"has {vocabulary} tokens; set it to at least {vocabulary}"
            ]
        )
    width = data.train.read(np.zeros(1, np.int64))["patches"].shape[-1]
    if width != recipe.qformer.vision_width:
        raise MismatchError(
            "the width of the patch features", width, recipe.qformer.vision_width, "Set qformer.vision_width to it."
        )
