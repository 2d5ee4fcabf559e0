"""Bytes of features on disk: exactly what the writer of shards makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seed_dist.config import Recipe, StageName
from seed_dist.plan.backbones import Tower

_BLOCK, _RECORD = 512, 10240  # of a tar
_NPY_HEADER = 128  # of arrays of up to three dimensions (NumPy's format 1.0, filled up to 64)
# index.parquet is compressed: key, offset, size and checksum of a row, and what is left of a caption. Measured on
# captions of made-up words that are as frequent as English ones.
_INDEX_ROW = 13
_CAPTION_SHARE = 0.4
SHARD_SAMPLES = 1000  # data_prep/shard.py's own value
# 256 px, quality 95, in img2dataset's table.
JPEG_BYTES = 29_900
ITEM_BYTES = {"fp16": 2, "fp32": 4, "int32": 4, "int8": 1}
_SCALE_BYTES = 2  # int8: an fp16 scale for each token


@dataclass(frozen=True)
class Feature:
    """One target: `shape` and `dtype` of a sample."""

    target: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def payload_bytes(self) -> int:
        """The numbers of one sample."""
        scales = _SCALE_BYTES * self.shape[0] if self.dtype == "int8" else 0
        return math.prod(self.shape) * ITEM_BYTES[self.dtype] + scales

    @property
    def sample_bytes(self) -> int:
        """One sample in a shard: tar header, array header and numbers, filled up to whole blocks."""
        return _BLOCK + _filled(_NPY_HEADER + self.payload_bytes, _BLOCK)

    def set_bytes(self, samples: int, shard_samples: int = SHARD_SAMPLES) -> int:
        """All shards of a set, with the end marks that every tar has."""
        whole, rest = divmod(samples, shard_samples)
        counts = [(whole, shard_samples), (1 if rest else 0, rest)]
        return sum(number * _filled(count * self.sample_bytes + 2 * _BLOCK, _RECORD) for number, count in counts)


def features(recipe: Recipe, image: Tower, generation: Tower, patches_dtype: str) -> dict[str, Feature]:
    """The feature sets of a recipe, in the order in which they are made."""
    q, c = recipe.qformer, recipe.codebook
    target = Feature("image_embedding", (c.generation_width,), "fp32")
    if c.generation_target == "text_features":
        target = Feature("text_features", (generation.tokens, c.generation_width), "fp16")
    made = [
        Feature("patches", (image.tokens, q.vision_width), patches_dtype),
        target,
        Feature("causal", (q.queries, q.width), "fp16"),
        Feature("codes", (q.queries,), "int32"),
    ]
    return {feature.target: feature for feature in made}


def stage_targets(recipe: Recipe, stage: StageName) -> tuple[str, ...]:
    """What a stage reads, as train/data.py."""
    by_stage = {
        "causal_qformer": ("patches",), "codebook": ("causal", recipe.codebook.generation_target), "lora": ("codes",),
    }  # fmt: skip
    return by_stage[stage]


def index_bytes(samples: int, caption_bytes: int) -> int:
    """What `index.parquet` takes, within a quarter."""
    return round(samples * (_INDEX_ROW + _CAPTION_SHARE * caption_bytes))


def _filled(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
