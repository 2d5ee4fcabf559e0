"""Parameter names of the published SEED system and ours, both ways, with every name accounted for.

Works on names and tensors only, so gradients convert like weights. The differences: we keep query, key and value
(self-attention) and key and value (cross-attention) in one matrix each, in this order of rows; everything else is a
renaming.

Published names are those of the training code (LAVIS layout, also used by `seed_quantizer.pt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from seed_dist.errors import MismatchError
from seed_dist.models.model_files import exported_state, listed, load_strictly

# Buffers that the published classes rebuild themselves; the only names that are dropped.
_SKIPPED = re.compile(r"(^|\.)bert\.embeddings\.position_ids$")
# The captioning head of the Q-Former, switched off in the published training: no module here, kept for writing back.
_CARRIED = "Qformer.cls."
_TIED = ("Qformer.cls.predictions.decoder.weight", "Qformer.bert.embeddings.word_embeddings.weight")

_LAYER = (  # within one BERT layer: ours, theirs; {} stands for query, key, value
    ("self_attention.qkv", "attention.self.{}", ("query", "key", "value")),
    ("self_attention.out", "attention.output.dense", None),
    ("self_norm", "attention.output.LayerNorm", None),
    ("cross_attention.query", "crossattention.self.query", None),
    ("cross_attention.key_value", "crossattention.self.{}", ("key", "value")),
    ("cross_attention.out", "crossattention.output.dense", None),
    ("cross_norm", "crossattention.output.LayerNorm", None),
    ("text_mlp.up", "intermediate.dense", None),
    ("text_mlp.down", "output.dense", None),
    ("text_norm", "output.LayerNorm", None),
    ("query_mlp.up", "intermediate_query.dense", None),
    ("query_mlp.down", "output_query.dense", None),
    ("query_norm", "output_query.LayerNorm", None),
)
_BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "norm2": "norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
_PLAIN = {  # prefixes outside the transformer layers
    "temperature": "temp",
    "word_embeddings.": "Qformer.bert.embeddings.word_embeddings.",
    "position_embeddings.": "Qformer.bert.embeddings.position_embeddings.",
    "encoder.embedding_norm.": "Qformer.bert.embeddings.LayerNorm.",
    "quantizer.encode.": "encode_task_layer.",
    "quantizer.quantizer.embedding.": "quantize.embedding.",
    "quantizer.decode_mlp.": "decode_task_layer.",
    "quantizer.reconstruction.position": "pos_embed",
    "quantizer.image.position": "pos_embed_image",
    "quantizer.head.encoder.embedding_norm.": "Reverse_Qformer.bert.embeddings.LayerNorm.",
    "quantizer.head.queries": "reverse_tokens",
    "quantizer.head.down.": "image_down.",
    "quantizer.head.out.": "distill_image_proj.",
    "ln_vision.": "ln_vision.",
    "query_tokens": "query_tokens",
    "vision_proj.": "vision_proj.",
    "text_proj.": "text_proj.",
}


def published_names(ours: str) -> tuple[str, ...]:
    """The published name or names (parts, in order of rows) of one tensor of a CausalQFormer or a SeedTokenizer."""
    name = ours.removeprefix("qformer.")
    if layer := re.fullmatch(r"(quantizer\.head\.)?encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        head, index, part, kind = layer.groups()
        stem = f"{'Reverse_Qformer' if head else 'Qformer'}.bert.encoder.layer.{index}"
        template, pieces = {ours: (theirs, pieces) for ours, theirs, pieces in _LAYER}[part]
        return tuple(f"{stem}.{template.format(piece)}.{kind}" for piece in pieces or ("",))
    if block := re.fullmatch(r"quantizer\.(reconstruction|image)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        stack, index, part, kind = block.groups()
        return (f"{'blocks' if stack == 'reconstruction' else 'blocks_image'}.{index}.{_BLOCK[part]}.{kind}",)
    for prefix, theirs in _PLAIN.items():
        if name.startswith(prefix):
            return (theirs + name.removeprefix(prefix),)
    raise AssertionError(f"no published name is known for {ours}")


def to_published(tensors: Mapping[str, Tensor], carried: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors under our names (weights, or their gradients) -> under the published names, plus those carried."""
    published: dict[str, Tensor] = {}
    for ours, tensor in tensors.items():
        names = published_names(ours)
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        published.update(zip(names, parts, strict=True))
    return {**published, **(carried or {})}


def load_published(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Load published weights into a CausalQFormer or SeedTokenizer; MismatchError lists every name that does not fit.

    The value is what has no place in the model but must not be lost: the captioning head of a stage-1 checkpoint. Pass
    it to `to_published` to write it back. `position_ids` buffers are dropped.
    """
    sources = {ours: published_names(ours) for ours in exported_state(model)}
    expected = {name for names in sources.values() for name in names}
    carried = {name: tensor for name, tensor in weights.items() if name.startswith(_CARRIED)}
    offered = {name for name in weights if name not in carried and not _SKIPPED.search(name)}
    problems = listed("missing", sorted(expected - offered)) + listed("unknown", sorted(offered - expected))
    if problems:
        raise MismatchError(
            f"the set of published weights in {origin}",
            "; ".join([*_head_problem(expected, offered), *problems]),
            f"the {len(expected)} tensors of this configuration",
            "Give the sizes, the head and the parts (text path or not) that the checkpoint was made with.",
        )
    _check_tied(weights, origin)
    load_strictly(model, {ours: _join(weights[n] for n in names) for ours, names in sources.items()}, origin)
    return carried


def _join(parts: Iterable[Tensor]) -> Tensor:
    tensors = list(parts)
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _head_problem(expected: set[str], offered: set[str]) -> list[str]:
    """Names the two heads when they are the reason."""
    heads = {"image_down.": "mlp", "Reverse_Qformer.": "reverse_qformer"}

    def heads_in(names: set[str]) -> list[str]:
        return [head for prefix, head in heads.items() if any(name.startswith(prefix) for name in names)]

    found, needed = heads_in(offered), heads_in(expected)
    return (
        [] if found == needed else [f"head {' and '.join(found) or 'none'} where the model has {' and '.join(needed)}"]
    )


def _check_tied(weights: Mapping[str, Tensor], origin: str) -> None:
    """The captioning head's output matrix is the word embedding; another one would be lost silently."""
    head, words = (weights.get(name) for name in _TIED)
    if head is not None and words is not None and not torch.equal(head, words):
        raise MismatchError(
            f"{_TIED[0]} in {origin}", "a matrix of its own", f"equal to {_TIED[1]}", "Check where the file comes from."
        )
