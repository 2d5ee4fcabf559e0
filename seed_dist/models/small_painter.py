"""The small painter: a diffusers U-Net that paints 64x64 pictures from a CLIP image embedding, as unCLIP decoders do.

Pixels are folded 4x4 into channels (48 x 16 x 16). The embedding enters in two ways: through the U-Net's class
projection, and as a map of features beside the noisy picture, because a picture has places and a vector has none.
Sampling follows diffusers' flow-matching Euler scheduler with classifier-free guidance (the null condition is the zero
vector).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from seed_dist.assets import resolve
from seed_dist.models.painter import Block, Seed, blocks, settings

FOLD = 4  # pixels per side that become one position of the U-Net
IMAGE_SIZE_PX = 64
CHANNELS = 3 * FOLD * FOLD
MAP_CHANNELS, MAP_SIDE = 32, 8  # of the embedding's feature map, before it is enlarged to the U-Net's size
_PROJECTION_HIDDEN = 512
_BATCH = 64


class ImageProjection(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Embeddings [B, E] -> feature maps [B, MAP_CHANNELS, side, side] that lie beside the noisy picture."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, embedding_width: int, hidden: int = _PROJECTION_HIDDEN) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(embedding_width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, MAP_CHANNELS * MAP_SIDE * MAP_SIDE),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        features = self.net(embedding).unflatten(1, (MAP_CHANNELS, MAP_SIDE, MAP_SIDE))
        return F.interpolate(features, size=IMAGE_SIZE_PX // FOLD, mode="nearest")


class PainterModel(nn.Module):
    """Projection and U-Net together: what is trained, and what each step of sampling calls."""

    def __init__(self, projection: Any, unet: Any) -> None:
        super().__init__()
        self.projection, self.unet = projection, unet

    def forward(self, noisy: Tensor, times: Tensor, embedding: Tensor) -> Tensor:
        """Noisy folded pictures [B, 48, 16, 16], times [B] in 0..1000, `condition` of embeddings -> clean pictures."""
        beside = self.projection(embedding).to(noisy.dtype)
        joined = torch.cat([noisy, beside], dim=1).contiguous(memory_format=torch.channels_last)
        clean: Tensor = self.unet(joined, times, None, class_labels=embedding).sample
        return clean


def build_painter(embedding_width: int) -> PainterModel:
    """The untrained painter."""
    return PainterModel(ImageProjection(embedding_width), _build_unet(embedding_width))


def _build_unet(embedding_width: int) -> UNet2DConditionModel:
    """Three levels of 64, 128 and 128 channels, FiLM-conditioned by time and embedding."""
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // FOLD,
        in_channels=CHANNELS + MAP_CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(64, 128, 128),
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


def load_small_painter(reference: str) -> PainterModel:
    """The trained painter of a folder, in float32."""
    folder = resolve(reference, "painter")
    parts = (("projection", ImageProjection), ("unet", UNet2DConditionModel))
    return PainterModel(
        *(cast(Any, kind).from_pretrained(folder / name, torch_dtype=torch.float32) for name, kind in parts)
    )


def condition(embedding: Tensor) -> Tensor:
    """CLIP embeddings [B, E] of any length as the U-Net wants them: each of root-mean-square 1."""
    return F.normalize(embedding.float(), dim=-1) * embedding.shape[-1] ** 0.5


def fold(images: Tensor) -> Tensor:
    """[B, 3, 64, 64] in -1..1 -> [B, 48, 16, 16]."""
    return F.pixel_unshuffle(images, FOLD)


def unfold(folded: Tensor) -> Tensor:
    """The inverse of `fold`."""
    return F.pixel_shuffle(folded, FOLD)


class SmallPainter:
    """A trained painter folder: `projection/`, `unet/` and `scheduler/`, each in diffusers' own layout."""

    default_steps, default_guidance = 20, 2.0

    def __init__(self, reference: str, device: str | torch.device = "cpu") -> None:
        self.reference, self.device = reference, torch.device(device)
        model: Any = load_small_painter(reference)
        self._model = model.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._scheduler_folder = resolve(reference, "painter") / "scheduler"
        self.embedding_shape: tuple[int, ...] = (int(self._model.projection.config.embedding_width),)

    @torch.inference_mode()
    def paint(
        self,
        embeddings: Tensor,
        seed: Seed = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: Tensor | None = None,
    ) -> list[Image.Image]:
        """CLIP image embeddings [B, E] -> B pictures of 64x64. Without `negative` the null condition is zero."""
        steps, guidance = settings(self, steps, guidance)
        pictures: list[Image.Image] = []
        for block in blocks(embeddings, negative, seed, _BATCH):
            folded = self._sample(block, steps, guidance)
            pictures.extend(_to_pictures(unfold(folded)))
        return pictures

    def _sample(self, block: Block, steps: int, guidance: float) -> Tensor:
        scheduler = cast(Any, FlowMatchEulerDiscreteScheduler.from_pretrained(self._scheduler_folder))
        scheduler.set_timesteps(steps)
        given = condition(block.embeddings.to(self.device))
        away = torch.zeros_like(given) if block.negative is None else condition(block.negative.to(self.device))
        both = torch.cat([given, away])
        x = block.noise(CHANNELS, IMAGE_SIZE_PX // FOLD, IMAGE_SIZE_PX // FOLD).to(self.device)
        for time in scheduler.timesteps:
            times = time.expand(2 * len(x)).to(self.device)
            clean, null = self._model(torch.cat([x, x]), times, both).chunk(2)
            velocity = (x - null - guidance * (clean - null)) / (time / scheduler.config.num_train_timesteps)
            x = scheduler.step(velocity, time, x).prev_sample
        return x


def _to_pictures(images: Tensor) -> list[Image.Image]:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


def save_painter(folder: Path, model: PainterModel) -> None:
    """Write a painter folder; weights as float16 (they are read back into float32)."""
    halved: Any = copy.deepcopy(model).to(torch.float16)
    halved.projection.save_pretrained(folder / "projection")
    halved.unet.save_pretrained(folder / "unet")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
