"""A CLIP of both towers in transformers' layout, as openai/clip-vit-large-patch14 is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.preprocessing import transformers_processor

ARCHITECTURE = "CLIPModel"


class ClipTowers:
    """Sees pictures, reads texts, and puts both into one space."""

    kind = "CLIP of transformers"

    def __init__(self, folder: Path, device: torch.device) -> None:
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model: Any = cast(Any, model).to(device).eval().requires_grad_(False)
        self._tokenizer = cast(Any, CLIPTokenizer.from_pretrained(folder, local_files_only=True))
        self._device = device
        self.processor = self.read_processor(folder)

    @staticmethod
    def read_processor(folder: Path) -> SeedImageProcessor:
        """Without reading weights."""
        config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
        return transformers_processor(folder, int(config.vision_config.image_size))

    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        out = self._model.vision_model(images.to(self._device), output_hidden_states=True)
        return out.hidden_states[-2], self._model.visual_projection(out.pooler_output)

    def image_embedding(self, images: Tensor) -> Tensor:
        return self.patches_and_embedding(images)[1]

    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        """Cut at the model's positions. The tower is causal and is read at the end token: padding changes nothing."""
        positions = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding="max_length", max_length=positions, truncation=True, return_tensors="pt"
        ).to(self._device)
        out = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return cast(Tensor, self._model.text_projection(out.pooler_output))

    def logit_scale(self) -> float:
        return float(self._model.logit_scale.exp())
