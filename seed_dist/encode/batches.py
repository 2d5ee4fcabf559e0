"""Batches for encoders, made ahead of their use by threads: reading, decoding and pre-processing release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from seed_dist.data.reader import FeatureShards, ImageShards
from seed_dist.encode.augmentation import Crop

Preprocess: TypeAlias = Callable[[Image.Image], Tensor]
Source: TypeAlias = ImageShards | FeatureShards


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive samples of one shard.

    From images: `pixels` holds float tensors [B, 3, H, W] by the function that made them, so that encoders with the
    same pre-processing share them. From features: `features` [B, ...], and `left_out`, the places of samples that
    have none.
    """

    keys: list[str]
    captions: list[str]
    other_captions: list[tuple[str, ...]]  # further ones of the same images
    pixels: dict[Preprocess, Tensor] = field(default_factory=dict)
    features: npt.NDArray[Any] | None = None
    left_out: tuple[int, ...] = ()

    def part(self, start: int, stop: int) -> Batch:
        """The samples at the places start..stop-1, sharing memory."""
        return Batch(
            self.keys[start:stop],
            self.captions[start:stop],
            self.other_captions[start:stop],
            {make: pixels[start:stop] for make, pixels in self.pixels.items()},
            None if self.features is None else self.features[start:stop],
            tuple(place - start for place in self.left_out if start <= place < stop),
        )

    def blanked(self, places: Collection[int]) -> Batch:
        """A copy with nothing to see or read at these places: as many samples, so the others are computed alike."""
        rows = sorted(places)
        pixels = {make: values.clone() for make, values in self.pixels.items()}
        features = None if self.features is None else self.features.copy()
        for values in pixels.values():
            values[rows] = 0
        if features is not None:
            features[rows] = 0
        captions = ["" if place in places else caption for place, caption in enumerate(self.captions)]
        return replace(self, captions=captions, pixels=pixels, features=features)


@dataclass(frozen=True)
class BatchMaker:
    """Reads, decodes, crops and pre-processes the samples of `source`."""

    source: Source
    preprocesses: Sequence[Preprocess]
    crop: Crop | None = None

    def __call__(self, rows: range) -> Batch:
        source, part = self.source, slice(rows.start, rows.stop)
        keys, captions = source.keys[part], source.captions[part]
        others = [all_captions[1:] for all_captions in source.all_captions[part]]
        if isinstance(source, FeatureShards):
            left_out = tuple(place for place, row in enumerate(rows) if row in source.quarantined)
            features = source.read(np.arange(rows.start, rows.stop))
            return Batch(keys, captions, others, features=features, left_out=left_out)
        if not self.preprocesses:  # captions are all that the encoders want
            return Batch(keys, captions, others)
        images = [source.image(row) for row in rows]
        if self.crop is not None:
            images = [self.crop(image, key) for image, key in zip(images, keys, strict=True)]
        pixels = {make: torch.stack([make(image) for image in images]) for make in self.preprocesses}
        return Batch(keys, captions, others, pixels)


def batches_ahead(make: BatchMaker, blocks: Iterable[range], threads: int) -> Generator[Batch, None, None]:
    """A batch for each block of rows, in order; `threads` of them are being made while the caller works on one.

    A block is asked for when a thread is free for it, and no sooner.
    """
    _ = make.source.keys, make.source.all_captions  # loaded once here rather than by several threads at once
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for block in blocks:
                ahead.append(pool.submit(make, block))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
