"""Bytes that the forward pass keeps for the backward pass: one micro-batch of a tokenizer stage on one rank.

What each part keeps is what its gradient is made of: a linear layer its input, a norm its input and two fp32 numbers
per vector, attention its query, key, value and output with one fp32 number per head and query (the fused kernels keep
no probabilities; torch's for the CPU do, once there is dropout), GELU its input, dropout a mask of one byte per number.
"""

from __future__ import annotations

from seed_dist.config import CodebookConfig, LoraConfig, QFormerConfig
from seed_dist.plan.backbones import LanguageModel
from seed_dist.plan.flops import is_memory_cheaper
from seed_dist.plan.parameters import mlp_head_sizes
from seed_dist.plan.stage_flops import Queries, image_queries, reverse_queries, scored_tokens

_FP32 = 4
_ID = 8  # int64


def causal_qformer(q: QFormerConfig, patches: int, batch: int, ranks: int, element: int) -> dict[str, int]:
    """Stage 1. `element` is the size of a number in the engine's precision."""
    texts = batch * (2 if q.exchanged_negatives else 1)
    memory = batch * patches * q.vision_width * element
    text = q.layers * _text_layer(q, texts, element) + _norm(texts * q.max_text_tokens, q.width, element)
    tables = 2 * 2 * batch * ranks * (texts + batch) // 2 * _FP32  # scores and their log-softmax, both directions
    return {
        "image features": memory,
        "image path": query_encoder(batch, image_queries(q, patches, training=True), q.dropout > 0, element),
        "text path": text + 2 * texts * q.max_text_tokens * _ID,
        "contrastive loss": tables + (batch + texts) * (q.width * element + 2 * q.projection_width * _FP32),
    }


def codebook(c: CodebookConfig, q: QFormerConfig, batch: int, element: int) -> dict[str, int]:
    """Stage 2."""
    rows, width = batch * q.queries, q.width
    decoder = c.decoder_layers * (16 * rows * width * element + 4 * rows * _FP32 + rows * c.decoder_heads * _FP32)
    cosine = 3 * rows * width * _FP32
    return {
        "encode": 2 * rows * width * element,
        "quantizer": rows * (4 * c.width * _FP32 + _ID) + 2 * rows * c.width * element,
        "reconstruction": decoder + cosine,
        "image": decoder,
        "head": _head(c, q, batch, element),
    }


def query_encoder(batch: int, q: Queries, dropout: bool, element: int) -> int:
    """All layers of `models.qformer.QueryEncoder`, without the memory itself."""
    start = (1 if q.shared else batch) * q.queries * q.width * element
    return start + sum(_query_layer(batch, q, index, dropout, element) for index in range(q.layers))


def _query_layer(batch: int, q: Queries, index: int, dropout: bool, element: int) -> int:
    last = q.last_only and index == q.layers - 1
    rows = 1 if last else q.queries
    alone = 1 if q.shared and index == 0 else batch
    width, mask = q.width, dropout * rows * q.width
    self_part = (2 * q.queries + 2 * rows) * width * element + q.heads * rows * _FP32  # keys, values; query, output
    kept = alone * (self_part + mask + _norm(rows, width, element))
    if index % q.cross_every == 0:
        kept += _cross(batch, rows, q, dropout, element) + batch * (mask + _norm(rows, width, element))
    kept += batch * (2 * rows * q.mlp_width * element + mask + _norm(rows, width, element))
    return kept


def _cross(batch: int, rows: int, q: Queries, dropout: bool, element: int) -> int:
    length, memory_width = q.memory
    ends = 2 * rows * q.width * element  # query and output
    if is_memory_cheaper(rows, length, q.width // q.heads):
        scores = rows * q.heads * length
        return batch * (ends + scores * (element + dropout) + rows * q.heads * memory_width * element)
    # In half precision the memory's norm is folded into key and value in fp32, which keeps two copies of both.
    folded = 0 if q.memory_needs_gradient or element == _FP32 else 2 * 2 * q.width * memory_width * _FP32
    return batch * (ends + 2 * length * q.width * element + q.heads * rows * _FP32) + folded


def _text_layer(q: QFormerConfig, texts: int, element: int) -> int:
    rows = texts * q.max_text_tokens
    self_part = rows * (4 * q.width * element + q.heads * _FP32)
    masks = 2 * (q.dropout > 0) * rows * q.width
    return self_part + 2 * rows * q.mlp_width * element + masks + 2 * _norm(rows, q.width, element)


def _norm(rows: int, width: int, element: int) -> int:
    """A norm's input, its statistics, and its output, which the next layer keeps."""
    return rows * (2 * width * element + 2 * _FP32)


def _head(c: CodebookConfig, q: QFormerConfig, batch: int, element: int) -> int:
    if c.head == "mlp":
        return batch * q.queries * sum(mlp_head_sizes(q)) * element
    queries = reverse_queries(c, q)
    memory = batch * q.queries * q.width * element
    return memory + query_encoder(batch, queries, q.dropout > 0, element)


def lora(options: LoraConfig, c: CodebookConfig, q: QFormerConfig, model: LanguageModel, rows: int) -> dict[str, int]:
    """Stage 3 in half precision, by the count of Korthikanti et al. 2022 (arXiv 2205.05198): 34 bytes per token, layer
    and channel with a feed-forward part of four times the width; fused attention keeps no probabilities.
    """
    tokens = rows * options.max_tokens
    other = 18 * model.width + 4 * model.mlp_width * (1 if model.kind == "opt" else 2)
    layer = tokens * other
    kept = model.layers * tokens * 2 * model.width + layer if options.gradient_checkpointing else model.layers * layer
    scores = scored_tokens(options, q, rows) * (model.vocabulary + c.size + 2)
    return {"layers": kept, "scores": scores * (2 + 2 * _FP32)}
