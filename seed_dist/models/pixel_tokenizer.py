"""The pixel tokenizer that SEED is compared with: a small convolutional VQ-VAE whose codes say what pixels look like.

van den Oord et al. 2017 (arXiv 1711.00937) with this project's quantizer: an encoder to a 4x4 grid of vectors, a
codebook, a decoder back to pixels. 16 codes of a codebook of the recipe's size, so as many bits as SEED's codes have in
the recipe `glyphs`. It sees pixels only: no captions, and no other model's features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from seed_dist.config import CodebookConfig
from seed_dist.models.model_files import load_weights, read_config, save_model, section
from seed_dist.models.quantizer import Quantized, VectorQuantizer

PIXEL_MODEL_TYPE = "pixel_tokenizer"
SIDE_PX = 64
GRID = 4  # codes per side
CODES = GRID * GRID
_FOLD = 4  # pixels per side that become one position of the first convolution
_CHANNELS = 3 * _FOLD * _FOLD
_WIDTHS = (64, 96, 128)  # channels at 16x16, 8x8 and 4x4
_GROUPS = 8


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width, width), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PixelTokenizer(nn.Module):
    """Pictures [B, 3, 64, 64] in -1..1 <-> codes int64 [B, 16], rows of the grid one after the other."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = _WIDTHS
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(_FOLD),
            nn.Conv2d(_CHANNELS, first, 3, padding=1),
            *_convolution(first, second, stride=2),
            ResidualBlock(second),
            *_convolution(second, third, stride=2),
            ResidualBlock(third),
            nn.GroupNorm(_GROUPS, third),
            nn.Conv2d(third, config.width, 1),
        )
        self.quantizer = VectorQuantizer(config)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.width, third, 1),
            ResidualBlock(third),
            nn.Upsample(scale_factor=2),
            *_convolution(third, second),
            ResidualBlock(second),
            nn.Upsample(scale_factor=2),
            *_convolution(second, first),
            *_convolution(first, _CHANNELS),
            nn.PixelShuffle(_FOLD),
        )

    def encode_vectors(self, pictures: Tensor) -> Tensor:
        """Pictures -> vectors before quantization [B, 16, c]."""
        vectors: Tensor = self.encoder(pictures).flatten(2).transpose(1, 2)
        return vectors

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Vectors [B, 16, c] -> pictures, not clamped."""
        grid = vectors.transpose(1, 2).unflatten(2, (GRID, GRID))
        pictures: Tensor = self.decoder(grid)
        return pictures

    def forward(self, pictures: Tensor) -> tuple[Tensor, Quantized]:
        """Pictures -> the same through the codes, and the quantizer's terms."""
        quantized: Quantized = self.quantizer(self.encode_vectors(pictures))
        return self.decode_vectors(quantized.vectors), quantized

    def codes(self, pictures: Tensor) -> Tensor:
        """Pictures -> codes int64 [B, 16]."""
        return self.quantizer.codes(self.encode_vectors(pictures))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, 16] -> pictures in -1..1."""
        return self.decode_vectors(self.quantizer.lookup(codes)).clamp(-1, 1)

    def save_pretrained(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write config.json and model.safetensors."""
        config = {"codebook": dataclasses.asdict(self.config), "provenance": dict(provenance)}
        save_model(folder, self, {"model_type": PIXEL_MODEL_TYPE, **config})

    @classmethod
    def from_pretrained(cls, folder: Path) -> PixelTokenizer:
        """An exported tokenizer in eval mode without gradients; errors list what does not fit."""
        model = cls(section(read_config(folder, PIXEL_MODEL_TYPE), "codebook", CodebookConfig, folder))
        load_weights(model, folder)
        return model.eval().requires_grad_(False)


def as_tensor(picture: Image.Image) -> Tensor:
    """A picture as float32 [3, 64, 64] in -1..1, squeezed to that size where it has another."""
    side = (SIDE_PX, SIDE_PX)
    resized = picture if picture.size == side else picture.resize(side, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def _convolution(width: int, out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, out, 3, stride=stride, padding=1)
