"""The frozen CLIP: patch features for the Q-Former, image embeddings as generation target, text features, embeddings.

Any open_clip folder (open_clip_config.json beside its safetensors) loads; nothing here is ever trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256
from seed_dist.models.image_processor import SeedImageProcessor


class FrozenClip:
    """An open_clip model in eval mode, without gradients.

    `preprocess` is the function of its `processor`; the settings stand in `details()` and so in every manifest.
    """

    def __init__(self, reference: str, device: str | torch.device = "cpu") -> None:
        folder = resolve(reference)
        self.reference, self.device = reference, torch.device(device)
        self.weights_sha256 = weights_sha256(folder)
        name = f"local-dir:{folder}"
        model = open_clip.create_model(name, device=self.device)
        self._model = cast(Any, model.eval().requires_grad_(False))
        self._tokenize = open_clip.get_tokenizer(name)
        self.processor = SeedImageProcessor.of_clip(folder)
        self.preprocess, self.image_size = self.processor.preprocess, self.processor.size_px

    def details(self) -> dict[str, Any]:
        """What a manifest must say so that features of other weights or pre-processing are never mixed in."""
        return {
            "encoder": self.reference,
            "weights_sha256": self.weights_sha256,
            "preprocessing": self.processor.details(),
        }

    @torch.inference_mode()
    def patch_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, V]: class token and patches after the last but one block, before any final norm.

        BLIP-2 takes the penultimate layer and normalises it by the `ln_vision` that is trained with the Q-Former,
        so the stored features come before that norm.
        """
        return self._intermediate(images)[0]

    @torch.inference_mode()
    def image_embedding(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, E], not normalised: the target that the diffusion model is conditioned on."""
        return cast(Tensor, self._model.encode_image(images.to(self.device)))

    @torch.inference_mode()
    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the above from one pass through the image tower."""
        return self._intermediate(images)

    def _intermediate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tower = self._model.visual
        if isinstance(tower, ModifiedResNet):
            # Stem and four stages: the last stage is left out here too; asking for it makes open_clip run it.
            out = tower.forward_intermediates(images.to(self.device), indices=[3, 4], output_fmt="NCHW")
            grid = out["image_intermediates"][0]
            return _with_positions(grid.flatten(2).transpose(1, 2), grid.shape[-2:]), out["image_features"]
        # Block -2 of L is the output of block L-1: the last block is left out, as in BLIP-2.
        blocks = tower.trunk.blocks if isinstance(tower, TimmModel) else tower.transformer.resblocks
        out = tower.forward_intermediates(
            images.to(self.device),
            indices=[len(blocks) - 2],
            normalize_intermediates=False,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        class_token, patches = out["image_intermediates_prefix"][0], out["image_intermediates"][0]
        return torch.cat([class_token, patches], dim=1), out["image_features"]

    @torch.inference_mode()
    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        """B captions -> [B, E] in the joint space, not normalised."""
        return cast(Tensor, self._model.encode_text(self._tokenize(list(texts)).to(self.device)))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """B captions -> [B, T, W]: the text tower's last hidden states, what Stable Diffusion is conditioned on."""
        out = self._model.forward_intermediates(
            text=self._tokenize(list(texts)).to(self.device),
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
