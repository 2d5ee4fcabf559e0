"""Stable Diffusion as painter: its text features are the generation embeddings, 77 x 768 for version 1.4 (SEED-1)."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from seed_dist.models.painter import Seed, blocks, load_pipeline, settings

_BATCH = 8


class StableDiffusionPainter:
    """diffusers' own pipeline with embeddings in place of a prompt; picture size and scheduler are the folder's.

    Published with SEED-1 (its stable_diffusion/scripts/txt2img.py): 50 steps of PLMS, which is the scheduler of 1.4's
    folder, guidance 7.5, 512 x 512. The safety checker is not loaded: no picture is looked at or replaced.
    """

    default_steps, default_guidance = 50, 7.5

    def __init__(self, reference: str, device: str | torch.device = "cpu") -> None:
        self.reference, self.device = reference, torch.device(device)
        unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        self._pipeline = load_pipeline(StableDiffusionPipeline, reference, self.device, **unchecked)
        text = self._pipeline.text_encoder.config
        self.embedding_shape: tuple[int, ...] = (int(text.max_position_embeddings), int(text.hidden_size))

    def paint(
        self,
        embeddings: Tensor,
        seed: Seed = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: Tensor | None = None,
    ) -> list[Image.Image]:
        """Text features [B, 77, 768] -> B pictures. Without `negative` they are driven away from the empty text.

        Picture i is what the pipeline paints with `torch.Generator().manual_seed(seed * 1_000_003 + i)`.
        """
        steps, guidance = settings(self, steps, guidance)
        pictures: list[Image.Image] = []
        for block in blocks(embeddings, negative, seed, _BATCH):
            given = self._like_weights(block.embeddings)
            away = self._empty_text.expand_as(given) if block.negative is None else self._like_weights(block.negative)
            unet = self._pipeline.unet.config
            noise = block.noise(unet.in_channels, unet.sample_size, unet.sample_size)
            pictures += self._pipeline(
                prompt_embeds=given,
                negative_prompt_embeds=away,
                num_inference_steps=steps,
                guidance_scale=guidance,
                latents=self._like_weights(noise),
                generator=block.generators,  # for schedulers that draw at every step
            ).images
        return pictures

    @cached_property
    def _empty_text(self) -> Tensor:
        """Features of "" by the folder's text encoder [1, 77, 768]."""
        with torch.inference_mode():
            return cast(Tensor, self._pipeline.encode_prompt("", self.device, 1, False)[0])

    def _like_weights(self, embeddings: Tensor) -> Tensor:
        return embeddings.to(self.device, self._pipeline.unet.dtype)
