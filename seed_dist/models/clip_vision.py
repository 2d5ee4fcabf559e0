"""CLIP's image tower with its projection in transformers' layout, as Stable unCLIP ships it in `image_encoder/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.preprocessing import transformers_processor

ARCHITECTURE = "CLIPVisionModelWithProjection"


class ClipVision:
    """Sees pictures: patch features after the last but one block, and the projected embedding."""

    kind = "image encoder of transformers"

    def __init__(self, folder: Path, preprocessor: Path, device: torch.device) -> None:
        model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model: Any = cast(Any, model).to(device).eval().requires_grad_(False)
        self._device = device
        self.processor = self.read_processor(folder, preprocessor)

    @staticmethod
    def read_processor(folder: Path, preprocessor: Path) -> SeedImageProcessor:
        """Without reading weights."""
        config: Any = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
        return transformers_processor(preprocessor, int(config.image_size))

    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        out = self._model(images.to(self._device), output_hidden_states=True)
        return out.hidden_states[-2], out.image_embeds
