"""The text features that a Stable Diffusion is conditioned on, from the `text_encoder/` and `tokenizer/` it ships with.

The text tower is causal and has no padding mask, so all positions count, padded ones too. The padding is the token that
this tokenizer names (Stable Diffusion 1: the end token), and the final layer norm is applied: exactly what diffusers'
StableDiffusionPipeline.encode_prompt gives, which a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


class StableDiffusionText:
    """Reads texts; sees no pictures."""

    kind = "text encoder of Stable Diffusion"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._tokenizer = cast(Any, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))
        model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
        self._model: Any = cast(Any, model).to(device).eval().requires_grad_(False)
        self._device = device

    def text_features(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # Some configurations ask for the mask; Stable Diffusion's do not.
        masked = getattr(self._model.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self._device) if masked else None
        return cast(Tensor, self._model(tokens.input_ids.to(self._device), attention_mask=mask).last_hidden_state)
