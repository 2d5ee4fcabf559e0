"""The small painter: a diffusers U-Net that paints 64x64 pictures from a CLIP image embedding, as unCLIP decoders do.

Pixels are folded 4x4 into channels (48 x 16 x 16), the embedding enters through the U-Net's class projection, and
sampling follows diffusers' flow-matching Euler scheduler with classifier-free guidance (the null condition is the zero
vector).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256

FOLD = 4  # pixels per side that become one position of the U-Net
IMAGE_SIZE_PX = 64
_BATCH = 64


def build_unet(embedding_width: int) -> UNet2DConditionModel:
    """The untrained U-Net: three levels of 64, 128 and 192 channels, FiLM-conditioned by time and embedding."""
    channels = 3 * FOLD * FOLD
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // FOLD,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        norm_num_groups=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=embedding_width,
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=8,  # unused by these blocks; the class demands a number
    )
    return cast(UNet2DConditionModel, unet)


def load_unet(reference: str) -> Any:
    """The trained U-Net of a painter folder, in float32."""
    return UNet2DConditionModel.from_pretrained(resolve(reference) / "unet", torch_dtype=torch.float32)


def condition(embedding: Tensor) -> Tensor:
    """CLIP embeddings [B, E] of any length as the U-Net wants them: each of root-mean-square 1."""
    return F.normalize(embedding.float(), dim=-1) * embedding.shape[-1] ** 0.5


def fold(images: Tensor) -> Tensor:
    """[B, 3, 64, 64] in -1..1 -> [B, 48, 16, 16]."""
    return F.pixel_unshuffle(images, FOLD)


def unfold(folded: Tensor) -> Tensor:
    """The inverse of `fold`."""
    return F.pixel_shuffle(folded, FOLD)


class Painter:
    """A trained painter folder: `unet/` and `scheduler/` in diffusers' own layout."""

    def __init__(self, reference: str, device: str | torch.device = "cpu") -> None:
        folder = resolve(reference)
        self.reference, self.device = reference, torch.device(device)
        self.weights_sha256 = weights_sha256(folder)
        self._unet = (
            load_unet(reference).to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        )
        self._scheduler_folder = folder / "scheduler"

    @property
    def embedding_width(self) -> int:
        return int(self._unet.config.projection_class_embeddings_input_dim)

    @torch.inference_mode()
    def paint(self, embedding: Tensor, seed: int, steps: int = 20, guidance: float = 2.0) -> list[Image.Image]:
        """CLIP image embeddings [B, E] -> B pictures of 64x64; picture i depends on its embedding, `seed` and i alone.

        `guidance` 1 paints the condition as it is; larger values exaggerate it.
        """
        pictures: list[Image.Image] = []
        for start in range(0, len(embedding), _BATCH):
            part = embedding[start : start + _BATCH]
            noise = [_noise(seed, start + i, self._unet.config.in_channels) for i in range(len(part))]
            folded = self._sample(condition(part.to(self.device)), torch.stack(noise).to(self.device), steps, guidance)
            pictures.extend(_to_pictures(unfold(folded)))
        return pictures

    def _sample(self, embedding: Tensor, noise: Tensor, steps: int, guidance: float) -> Tensor:
        scheduler = cast(Any, FlowMatchEulerDiscreteScheduler.from_pretrained(self._scheduler_folder))
        scheduler.set_timesteps(steps)
        both = torch.cat([embedding, torch.zeros_like(embedding)])
        x = noise.contiguous(memory_format=torch.channels_last)
        for time in scheduler.timesteps:
            times = time.expand(2 * len(x)).to(self.device)
            clean = self._unet(torch.cat([x, x]), times, None, class_labels=both).sample
            given, null = clean.chunk(2)
            velocity = (x - null - guidance * (given - null)) / (time / scheduler.config.num_train_timesteps)
            x = scheduler.step(velocity, time, x).prev_sample
        return x


def _noise(seed: int, index: int, channels: int) -> Tensor:
    """The start of picture `index`: its own generator, so that batching changes nothing."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    side = IMAGE_SIZE_PX // FOLD
    return torch.randn(channels, side, side, generator=generator)


def _to_pictures(images: Tensor) -> list[Image.Image]:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


def save_painter(folder: Path, unet: UNet2DConditionModel) -> None:
    """Write a painter folder; weights as float16 (they are read back into float32)."""
    half = UNet2DConditionModel.from_config(cast(Any, unet).config)
    half.load_state_dict(cast(Any, unet).state_dict())
    cast(Any, half).to(torch.float16).save_pretrained(folder / "unet")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
