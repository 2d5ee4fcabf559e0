"""Stable unCLIP as painter: a CLIP image embedding is the generation embedding, 1024 numbers for SD 2.1 (SEED-2).

The loop of sampling stands here, over the pipeline's own parts: diffusers' pipelines take no negative image embedding
(SEED's inference code has a changed copy of one for it), and would load an image encoder or a prior that is not needed.
"""

from __future__ import annotations

from functools import cached_property
from typing import cast

import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image
from torch import Tensor

from seed_dist.models.painter import Block, Seed, blocks, load_pipeline, settings

_BATCH = 4


class StableUnclipPainter:
    """Noise level 0, empty text; picture size and scheduler are the folder's.

    Published with SEED-2 (its models/seed_llama_tokenizer.py): 20 steps, guidance 10, and the embedding of negative ids
    in the unconditional branch, which otherwise has zeros. There one noise was drawn per process and another at every
    call; here both belong to the picture's seed.
    """

    default_steps, default_guidance = 20, 10.0

    def __init__(self, reference: str, device: str | torch.device = "cpu") -> None:
        self.reference, self.device = reference, torch.device(device)
        self._pipeline = load_pipeline(
            StableUnCLIPImg2ImgPipeline, reference, self.device, image_encoder=None, feature_extractor=None
        )
        self.embedding_shape: tuple[int, ...] = (int(self._pipeline.image_normalizer.config.embedding_dim),)

    @torch.inference_mode()
    def paint(
        self,
        embeddings: Tensor,
        seed: Seed = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: Tensor | None = None,
    ) -> list[Image.Image]:
        """CLIP image embeddings [B, 1024] -> B pictures.

        Without `negative`, picture i is what diffusers' pipeline makes of the embedding, the empty text and
        `torch.Generator().manual_seed(seed * 1_000_003 + i)`.
        """
        steps, guidance = settings(self, steps, guidance)
        pictures: list[Image.Image] = []
        for block in blocks(embeddings, negative, seed, _BATCH):
            latents = self._sample(block, steps, guidance)
            vae = self._pipeline.vae
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
            pictures += self._pipeline.image_processor.postprocess(decoded, output_type="pil")
        return pictures

    def _sample(self, block: Block, steps: int, guidance: float) -> Tensor:
        """Latents [B, C, H, W] of clean pictures."""
        pipeline, scheduler, unet = self._pipeline, self._pipeline.scheduler, self._pipeline.unet
        image = self._image_conditions(block, guided=guidance > 1)
        text = self._empty_text.expand(len(image), -1, -1)
        scheduler.set_timesteps(steps, device=self.device)
        noise = block.noise(unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        latents = self._like_weights(noise) * scheduler.init_noise_sigma
        extra = pipeline.prepare_extra_step_kwargs(block.generators, eta=0.0)
        for time in scheduler.timesteps:
            repeated = torch.cat([latents] * (len(image) // len(latents)))
            predicted = unet(
                scheduler.scale_model_input(repeated, time), time, encoder_hidden_states=text, class_labels=image
            ).sample
            if guidance > 1:
                away, given = predicted.chunk(2)
                predicted = away + guidance * (given - away)
            latents = scheduler.step(predicted, time, latents, **extra).prev_sample
        return cast(Tensor, latents)

    def _image_conditions(self, block: Block, guided: bool) -> Tensor:
        """[B, 2E]: embeddings and their noise level, as the U-Net wants them; `guided`: [2B, 2E], the negatives first.

        Level 0 has a little noise too. A negative gets the same, so that equal ids cancel out exactly.
        """
        noise = self._like_weights(block.noise(*self.embedding_shape))

        def noised(embeddings: Tensor) -> Tensor:
            given = self._like_weights(embeddings)
            return cast(Tensor, self._pipeline.noise_image_embeddings(given, noise_level=0, noise=noise))

        given = noised(block.embeddings)
        if not guided:
            return given
        return torch.cat([torch.zeros_like(given) if block.negative is None else noised(block.negative), given])

    @cached_property
    def _empty_text(self) -> Tensor:
        """Features of "" by the folder's text encoder [1, T, W]."""
        return cast(Tensor, self._pipeline.encode_prompt("", self.device, 1, False)[0])

    def _like_weights(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self._pipeline.unet.dtype)
