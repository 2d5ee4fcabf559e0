"""A CLIP of both towers in open_clip's own folder: `open_clip_config.json` beside its safetensors.

Patch features for the Q-Former, image embeddings as generation target, text features, and embeddings of both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor

from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.preprocessing import open_clip_processor

CONFIG_NAME = "open_clip_config.json"


class OpenClipModel:
    """Sees pictures, reads texts, and puts both into one space."""

    kind = "open_clip model"

    def __init__(self, folder: Path, device: torch.device) -> None:
        name = f"local-dir:{folder}"
        self._device = device
        model = open_clip.create_model(name, device=device)
        self._model = cast(Any, model.eval().requires_grad_(False))
        self._tokenize = open_clip.get_tokenizer(name)
        self.processor = self.read_processor(folder)

    @staticmethod
    def read_processor(folder: Path) -> SeedImageProcessor:
        """Without reading weights."""
        return open_clip_processor(folder / CONFIG_NAME)

    def image_embedding(self, images: Tensor) -> Tensor:
        return cast(Tensor, self._model.encode_image(images.to(self._device)))

    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tower = self._model.visual
        if isinstance(tower, ModifiedResNet):
            # Stem and four stages: the last stage is left out here too; asking for it makes open_clip run it.
            out = tower.forward_intermediates(images.to(self._device), indices=[3, 4], output_fmt="NCHW")
            grid = out["image_intermediates"][0]
            return _with_positions(grid.flatten(2).transpose(1, 2), grid.shape[-2:]), out["image_features"]
        # Block -2 of L is the output of block L-1: the last block is left out, as in BLIP-2.
        blocks = tower.trunk.blocks if isinstance(tower, TimmModel) else tower.transformer.resblocks
        out = tower.forward_intermediates(
            images.to(self._device),
            indices=[len(blocks) - 2],
            normalize_intermediates=False,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        class_token, patches = out["image_intermediates_prefix"][0], out["image_intermediates"][0]
        return torch.cat([class_token, patches], dim=1), out["image_features"]

    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        return cast(Tensor, self._model.encode_text(self._tokenize(list(texts)).to(self._device)))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        out = self._model.forward_intermediates(
            text=self._tokenize(list(texts)).to(self._device),
            text_indices=1,
            normalize_intermediates=True,
            text_output_fmt="NLC",
        )
        return cast(Tensor, out["text_intermediates"][-1])

    def logit_scale(self) -> float:
        return float(self._model.logit_scale.exp())


def _with_positions(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Append 16 sine-cosine channels of row and column: a ResNet's grid, unlike a ViT's tokens, carries no places.

    tokens [B, H*W, C] -> [B, H*W, C + 16]; four wavelengths per axis from the whole grid down, at the tokens' scale.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n) / n for n in grid), indexing="ij")
    frequencies = 2.0 ** torch.arange(4) * torch.pi / 2
    angles = torch.stack([rows.flatten(), columns.flatten()], dim=1).unsqueeze(-1) * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1).to(tokens)
    return torch.cat([tokens, waves.expand(len(tokens), -1, -1)], dim=-1)
