"""Sizes of a published model, read from the shapes and names of its tensors.

What is missing or too much is not judged here: `load_published` compares all names and shapes with those of the model
that these sizes give, and lists every difference. A size whose tensor is missing has its published value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from seed_dist.config import CodebookConfig, QFormerConfig
from seed_dist.errors import ConfigError

Head = Literal["mlp", "reverse_qformer"]
_HEAD_WIDTH = 64  # of BERT, and so of every published Q-Former
_LAYER = "Qformer.bert.encoder.layer."
_WORDS, _POSITIONS = (f"Qformer.bert.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
# Beginnings of what the contrastive stage alone needs.
_TEXT = (_WORDS, _POSITIONS, "vision_proj.", "text_proj.", "temp")


@dataclass(frozen=True)
class Told:
    """What no shape shows; None where it is to be found out. `head` is what the user takes it to be."""

    heads: int | None = None
    decoder_heads: int | None = None
    head: Head | None = None


def has_text_path(weights: Mapping[str, Tensor]) -> bool:
    """Whether there is anything that only the contrastive stage needs; if there is, all of it is expected."""
    return any(name.startswith(_TEXT) for name in weights)


def qformer_config(weights: Mapping[str, Tensor], told: Told, causal: bool) -> QFormerConfig:
    """The sizes of the Q-Former. ConfigError when the number of heads must be told, or does not divide the width."""
    published = QFormerConfig()
    width = _size(weights, "query_tokens", 2, published.width)
    layers = _numbers(weights, rf"{re.escape(_LAYER)}(\d+)\.")
    positions = _size(weights, _POSITIONS, 0, published.text_positions)
    return QFormerConfig(
        queries=_size(weights, "query_tokens", 1, published.queries),
        width=width,
        layers=len(layers) or published.layers,
        heads=_heads("--heads", told.heads, width),
        mlp_width=_size(weights, f"{_LAYER}0.intermediate_query.dense.weight", 0, published.mlp_width),
        cross_every=_cross_every(weights, len(layers)),
        vision_width=_size(weights, "ln_vision.weight", 0, published.vision_width),
        projection_width=_size(weights, "vision_proj.weight", 0, published.projection_width),
        max_text_tokens=min(published.max_text_tokens, positions),
        text_positions=positions,
        vocabulary_size=_size(weights, _WORDS, 0, published.vocabulary_size),
        causal=causal,
    )


def codebook_config(weights: Mapping[str, Tensor], told: Told, qformer: QFormerConfig) -> CodebookConfig:
    """The sizes of quantizer, decoders and head; the head is the one that was told, or else the one that is there."""
    published = CodebookConfig()
    reverse_layers = _numbers(weights, r"Reverse_Qformer\.bert\.encoder\.layer\.(\d+)\.")
    is_reverse = bool(reverse_layers) or "reverse_tokens" in weights
    head = told.head or ("reverse_qformer" if is_reverse else "mlp")
    return CodebookConfig(
        size=_size(weights, "quantize.embedding.weight", 0, published.size),
        width=_size(weights, "quantize.embedding.weight", 1, published.width),
        decoder_layers=len(_numbers(weights, r"blocks\.(\d+)\.")) or published.decoder_layers,
        decoder_heads=_heads("--decoder-heads", told.decoder_heads or qformer.heads, qformer.width),
        head=cast(Any, head),
        head_queries=_size(weights, "reverse_tokens", 1, 1) if head == "reverse_qformer" else 1,
        head_layers=len(reverse_layers) or published.head_layers,
        generation_width=_size(weights, "distill_image_proj.weight", 0, published.generation_width),
    )


def _size(weights: Mapping[str, Tensor], name: str, axis: int, published: int) -> int:
    tensor = weights.get(name)
    return tensor.shape[axis] or published if tensor is not None and tensor.ndim > axis else published


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    """The different numbers at the beginnings of names, sorted."""
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})


def _cross_every(weights: Mapping[str, Tensor], layers: int) -> int:
    """The distance between the first two layers with cross-attention; all layers where only one has it."""
    crossed = _numbers(weights, rf"{re.escape(_LAYER)}(\d+)\.crossattention\.")
    return crossed[1] - crossed[0] if len(crossed) > 1 else max(layers, 1)


def _heads(option: str, told: int | None, width: int) -> int:
    if told is None and width % _HEAD_WIDTH == 0:
        return width // _HEAD_WIDTH
    if told is None:
        raise ConfigError(
            [
                f"{option} is not given, and the width {width} is no multiple of {_HEAD_WIDTH}, the width of a head in "
                "published models; no tensor shows the number of heads: give the one that the model was made with"
            ]
        )
    if told < 1 or width % told:
        raise ConfigError([f"{option} is {told}, but a divisor of the width {width} is needed"])
    return told
