"""Pictures for measuring: each follows from its example alone, to the last bit, in whatever batch it is painted.

Arithmetic on blocks of another shape rounds in another way, and a picture then differs by a level here and there. So
all work is done in blocks of one shape, filled up where examples are fewer, and noise comes from a picture's key.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256
from seed_dist.errors import DataError
from seed_dist.models.painter import Painter, settings
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.testsets.example import Example

BLOCK = 8  # a multiple of what the painters paint at once, or less than that; runners do well to give multiples of it
_THUMBNAIL_PX = 192
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Painting:
    """A painter and how it paints; None for the steps and the guidance of its publication."""

    painter: Painter
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None

    def __call__(self, embeddings: Tensor, keys: Sequence[str]) -> list[Image.Image]:
        """Generation embeddings [B, ...] of the examples of these keys -> B pictures."""
        seeds = [picture_seed(self.seed, key) for key in keys]
        return self.painter.paint(embeddings, seeds, self.steps, self.guidance)

    def protocol(self) -> dict[str, Any]:
        steps, guidance = settings(self.painter, self.steps, self.guidance)
        return {
            "steps": steps,
            "guidance": guidance,
            "seed": self.seed,
            "seed_of_a_picture": "first 63 bits of SHA-256 of `SEED KEY`",
            "block": BLOCK,
            "format": "judged as painted, 8 bit RGB, never compressed; originals upright, as stored",
        }

    def models(self) -> dict[str, Any]:
        reference = self.painter.reference
        return {"name": reference, "weights_sha256": weights_sha256(resolve(reference, "painter"))}


def picture_seed(seed: int, key: str) -> int:
    """Of the noise that the picture of an example starts from."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "big") >> 1


def noise_picture(key: str, size: tuple[int, int]) -> Image.Image:
    """Uniform noise of a size (width, height): what knows of no picture at all. It follows from the key."""
    seed = int.from_bytes(hashlib.sha256(f"noise {key}".encode()).digest()[:8], "big")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def in_blocks(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]) -> Iterator[Result]:
    """What `work` makes of each item, given BLOCK at a time; the last block is filled up with its own last item."""
    for start in range(0, len(items), BLOCK):
        block = list(items[start : start + BLOCK])
        yield from work(block + block[-1:] * (BLOCK - len(block)))[: len(block)]


def keep_blocks_whole(tokenizer: SeedTokenizer) -> None:
    """Let a tokenizer take a whole block at a time: cut in two, it would have other last bits."""
    tokenizer.batch_size = max(tokenizer.batch_size, BLOCK)


def original(example: Example) -> Image.Image:
    """An example's picture; DataError where it has none."""
    if example.image is None:
        raise DataError(f"example {example.key} has no picture to compare with. Give a test set with pictures.")
    return example.image()


def thumbnail(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """A JPEG of at most 192 pixels a side, for the page: its bytes."""
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    small.save(buffer, "JPEG", quality=90)
    return np.frombuffer(buffer.getvalue(), np.uint8)
