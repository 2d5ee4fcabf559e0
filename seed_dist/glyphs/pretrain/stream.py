"""Endless freshly drawn scenes for training the backbones, drawn by a background process ahead of the trainer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from seed_dist.glyphs.scenes import draw, neighbour, sample_scene


@dataclass(frozen=True)
class SceneBatch:
    """`images`: uint8 [B, 3, 64, 64]; `captions` and one hard-negative caption each, B strings."""

    images: torch.Tensor
    captions: list[str]
    negatives: list[str]


class SceneStream(IterableDataset[SceneBatch]):
    """Batches of scenes from a seed of their own, so no picture of the demo's splits is replayed on purpose."""

    def __init__(self, batch_size: int, seed: str) -> None:
        self.batch_size, self.seed = batch_size, seed

    def __iter__(self) -> Iterator[SceneBatch]:
        rng = random.Random(f"{self.seed}")
        while True:
            scenes = [sample_scene(rng) for _ in range(self.batch_size)]
            pixels = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            yield SceneBatch(images, [s.caption() for s in scenes], [neighbour(rng, s).caption() for s in scenes])


def scene_batches(batch_size: int, seed: str) -> Iterator[SceneBatch]:
    loader = DataLoader(
        SceneStream(batch_size, seed),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    return iter(loader)
