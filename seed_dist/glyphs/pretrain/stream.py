"""Endless freshly drawn scenes for training the backbones, drawn by a background process ahead of the trainer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from seed_dist.glyphs.scenes import (
    BACKGROUNDS,
    COLOURS,
    GLYPHS,
    RELATIONS,
    STILL,
    Object,
    Scene,
    draw,
    held_out_pairs,
    neighbour,
    sample_scene,
)

GROUP = 16  # scenes of a batch that differ in glyphs alone


@dataclass(frozen=True)
class SceneBatch:
    """images and still: uint8 [B, 3, 64, 64]; B captions and a hard-negative caption for each; labels: int64 [B, 6].

    `still` are the same scenes with everything in the middle of its place.
    """

    images: torch.Tensor
    still: torch.Tensor
    captions: list[str]
    negatives: list[str]
    labels: torch.Tensor


class SceneStream(IterableDataset[SceneBatch]):
    """Batches of scenes from a seed of their own, so no picture of the demo's splits is replayed on purpose."""

    def __init__(self, batch_size: int, seed: str) -> None:
        self.batch_size, self.seed = batch_size, seed

    def __iter__(self) -> Iterator[SceneBatch]:
        rng = random.Random(f"{self.seed}")
        while True:
            scenes = _mixed_scenes(rng, self.batch_size)
            images = _pixels([draw(scene, rng) for scene in scenes])
            still = _pixels([draw(scene, random.Random(0), STILL) for scene in scenes])  # leaves `rng` alone
            negatives = [neighbour(rng, scene).caption() for scene in scenes]
            classes = torch.tensor([labels(scene) for scene in scenes])
            yield SceneBatch(images, still, [scene.caption() for scene in scenes], negatives, classes)


def _pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """uint8 [B, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


LABEL_SIZES = (len(COLOURS), len(GLYPHS), len(COLOURS) + 1, len(GLYPHS) + 1, len(RELATIONS) + 1, len(BACKGROUNDS))


def labels(scene: Scene) -> tuple[int, ...]:
    """Class indices: colour and glyph of first and second object, relation, background; "none" comes last."""
    colours, glyphs, relations = list(COLOURS), list(GLYPHS), list(RELATIONS)
    first, *rest = scene.objects
    second = (colours.index(rest[0].colour), glyphs.index(rest[0].glyph)) if rest else (len(colours), len(glyphs))
    relation = relations.index(scene.relation) if scene.relation else len(relations)
    own = (colours.index(first.colour), glyphs.index(first.glyph))
    return *own, *second, relation, list(BACKGROUNDS).index(scene.background)


def _mixed_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Half free scenes, half groups of 16 that differ in their glyphs alone.

    With free scenes only, colours, relation and background already tell most captions of a batch apart and the
    glyphs are hardly learned.
    """
    scenes = [sample_scene(rng) for _ in range(count // 2)]
    while len(scenes) < count:
        model = sample_scene(rng)
        group: set[Scene] = set()
        while len(group) < min(GROUP, count - len(scenes)):
            objects = tuple(Object(thing.colour, _seen_glyph(rng, thing.colour)) for thing in model.objects)
            scene = replace(model, objects=objects)
            if scene not in group:
                group.add(scene)
                scenes.append(scene)
    return scenes


def _seen_glyph(rng: random.Random, colour: str) -> str:
    while (colour, glyph := list(GLYPHS)[int(rng.random() * len(GLYPHS))]) in held_out_pairs():
        pass
    return glyph


def scene_batches(batch_size: int, seed: str) -> Iterator[SceneBatch]:
    """Batches without end, of other scenes for every seed."""
    loader = DataLoader(
        SceneStream(batch_size, seed),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    return iter(loader)
