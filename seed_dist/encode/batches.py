"""Batches for encoders, made ahead of their use by threads: reading, decoding and pre-processing release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from seed_dist.data.reader import FeatureShards, ImageShards

Preprocess: TypeAlias = Callable[[Image.Image], Tensor]
Source: TypeAlias = ImageShards | FeatureShards


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive samples of one shard.

    From images: `pixels` holds float tensors [B, 3, H, W] by the function that made them, so that encoders with the
    same pre-processing share them. From features: `features` [B, ...] in the stored dtype.
    """

    keys: list[str]
    captions: list[str]
    other_captions: list[tuple[str, ...]]  # further ones of the same images
    pixels: dict[Preprocess, Tensor] = field(default_factory=dict)
    features: npt.NDArray[Any] | None = None


def batches_ahead(
    source: Source, blocks: Sequence[range], preprocesses: Sequence[Preprocess], threads: int
) -> Generator[Batch, None, None]:
    """A batch for each block of rows, in order; `threads` of them are being made while the caller works on one."""
    _ = source.keys, source.all_captions  # loaded once here rather than by several threads at once
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for block in blocks:
                ahead.append(pool.submit(_make_batch, source, block, preprocesses))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _make_batch(source: Source, rows: range, preprocesses: Sequence[Preprocess]) -> Batch:
    part = slice(rows.start, rows.stop)
    keys, captions = source.keys[part], source.captions[part]
    others = [all_captions[1:] for all_captions in source.all_captions[part]]
    if isinstance(source, FeatureShards):
        return Batch(keys, captions, others, features=source.read(np.arange(rows.start, rows.stop)))
    if not preprocesses:  # captions are all that the encoders want
        return Batch(keys, captions, others)
    images = [source.image(row) for row in rows]
    pixels = {make: torch.stack([make(image) for image in images]) for make in preprocesses}
    return Batch(keys, captions, others, pixels)
