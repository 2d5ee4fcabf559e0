"""Operations of one micro-batch of each stage on one rank, by module, as this project's modules compute them.

Shared work counts as it is done: without dropout the queries are equal for all samples until the first
cross-attention, stage 1 computes only the last query in its last layer, and gradients that nobody needs are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from seed_dist.config import CodebookConfig, LoraConfig, QFormerConfig
from seed_dist.plan import flops
from seed_dist.plan.backbones import LanguageModel, Tower
from seed_dist.plan.flops import Flops, add, attention, linear
from seed_dist.plan.parameters import REVERSE_CROSS_EVERY, mlp_head_sizes

_CODE_GROUP = 128  # models/nearest.py fills the codebook up to a multiple of it


@dataclass(frozen=True)
class Queries:
    """Query vectors through BERT layers that read a memory of (length, width)."""

    queries: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    cross_every: int
    memory: tuple[int, int]
    memory_needs_gradient: bool
    last_only: bool  # the last layer computes the last query alone
    shared: bool  # one set of queries for all samples until they differ: no dropout


def query_encoder(batch: int, q: Queries) -> Flops:
    """All layers of `models.qformer.QueryEncoder`."""
    return add(_query_layer(batch, q, index) for index in range(q.layers))


def _query_layer(batch: int, q: Queries, index: int) -> Flops:
    last = q.last_only and index == q.layers - 1
    rows = 1 if last else q.queries
    alone = 1 if q.shared and index == 0 else batch  # layer 0 always reads the memory, and then samples differ
    width = q.width
    parts = [
        linear(alone * rows, width, width),  # queries
        linear(alone * q.queries, width, 2 * width),  # keys and values
        attention(alone, rows, q.queries, width),
        linear(alone * rows, width, width),
        linear(batch * rows, width, q.mlp_width),
        linear(batch * rows, q.mlp_width, width),
    ]
    if index % q.cross_every == 0:
        parts += [linear(alone * rows, width, width), _cross(batch, rows, q), linear(batch * rows, width, width)]
    return add(parts)


def _cross(batch: int, rows: int, q: Queries) -> Flops:
    """Between the projections of query and output."""
    length, memory_width = q.memory
    if flops.is_memory_cheaper(rows, length, q.width // q.heads):
        reading = flops.memory_attention(batch, rows, q.memory, q.width, q.heads)
        if not q.memory_needs_gradient:
            return reading
        return add([reading, flops.memory_gradient(batch, rows, q.memory, q.width, q.heads)])
    projected = linear(batch * length, memory_width, 2 * q.width, 2 if q.memory_needs_gradient else 1)
    return add([projected, attention(batch, rows, length, q.width)])


def image_queries(q: QFormerConfig, patches: int, training: bool) -> Queries:
    """The image path of the Causal Q-Former: in stage 1, or when it encodes all causal embeddings."""
    return Queries(
        q.queries, q.width, q.layers, q.heads, q.mlp_width, q.cross_every, (patches, q.vision_width),
        memory_needs_gradient=False, last_only=training, shared=q.dropout == 0 or not training,
    )  # fmt: skip


def causal_qformer(q: QFormerConfig, patches: int, batch: int, ranks: int) -> dict[str, Flops]:
    """Stage 1, with captions of `max_text_tokens`: a batch is padded to its longest."""
    texts = batch * (2 if q.exchanged_negatives else 1)
    rows, width = texts * q.max_text_tokens, q.width
    text_layer = [
        linear(rows, width, 4 * width),
        attention(texts, q.max_text_tokens, q.max_text_tokens, width),
        linear(rows, width, q.mlp_width),
        linear(rows, q.mlp_width, width),
    ]
    pairs = linear(batch, q.projection_width, ranks * (texts + batch), 2 if q.gather_with_gradient else 1)
    return {
        "image path": query_encoder(batch, image_queries(q, patches, training=True)),
        "text path": add(text_layer).times(q.layers),
        "projections": linear(batch + texts, width, q.projection_width),
        "contrastive loss": pairs,
    }


def codebook(c: CodebookConfig, q: QFormerConfig, batch: int) -> dict[str, Flops]:
    """Stage 2."""
    rows, width = batch * q.queries, q.width
    block = [
        linear(rows, width, 4 * width),
        attention(batch, q.queries, q.queries, width),
        linear(rows, width, 8 * width),
    ]
    decoder = add(block).times(c.decoder_layers)
    return {
        "encode": add([linear(rows, width, width, products_back=1), linear(rows, width, c.width)]),
        "nearest codes": nearest_codes(c, rows),
        "decode_mlp": add([linear(rows, c.width, c.width), linear(rows, c.width, width)]),
        "reconstruction": decoder,
        "image": decoder,
        "head": _head(c, q, batch),
    }


def nearest_codes(c: CodebookConfig, vectors: int) -> Flops:
    """Scores of all codes; no gradient."""
    return Flops(2 * vectors * -(-c.size // _CODE_GROUP) * _CODE_GROUP * c.width, 0)


def _head(c: CodebookConfig, q: QFormerConfig, batch: int) -> Flops:
    if c.head == "mlp":
        sizes = mlp_head_sizes(q)
        squeeze = [linear(batch * q.queries, a, b) for a, b in pairwise(sizes)]
        return add([*squeeze, linear(batch, q.queries * sizes[-1], c.generation_width)])
    return add(
        [query_encoder(batch, reverse_queries(c, q)), linear(batch * c.head_queries, q.width, c.generation_width)]
    )


def reverse_queries(c: CodebookConfig, q: QFormerConfig) -> Queries:
    """The Reverse Q-Former, which reads the decoded embeddings and passes a gradient on to them."""
    return Queries(
        c.head_queries, q.width, c.head_layers, c.decoder_heads, q.mlp_width, REVERSE_CROSS_EVERY,
        (q.queries, q.width), memory_needs_gradient=True, last_only=False, shared=q.dropout == 0,
    )  # fmt: skip


def lora(options: LoraConfig, c: CodebookConfig, q: QFormerConfig, model: LanguageModel, rows: int) -> dict[str, Flops]:
    """Stage 3, with rows of `max_tokens`: an upper bound, because a batch is padded to its longest document."""
    tokens, rank = rows * options.max_tokens, options.rank
    frozen = add(linear(tokens, *sizes, products_back=1) for sizes in model.linears.values())
    adapters = add(
        add([linear(tokens, model.linears[name][0], rank), linear(tokens, rank, model.linears[name][1])])
        for name in options.target_modules
        if name in model.linears
    )
    layers = add([frozen, attention(rows, options.max_tokens, options.max_tokens, model.width)]).times(model.layers)
    adapters = adapters.times(model.layers)
    if options.gradient_checkpointing:
        layers, adapters = (Flops(part.forward, part.backward + part.forward) for part in (layers, adapters))
    scored = scored_tokens(options, q, rows)
    words = linear(scored, model.width, model.vocabulary, products_back=1)
    image_tokens = linear(scored, model.width, c.size + 2)
    if options.image_embedding == "codebook":  # read twice: for the words' embedding, and so for its gradient
        image_tokens = add([image_tokens, linear(c.size, c.width, model.width, products_back=1)])
    return {"language model": layers, "adapters": adapters, "word scores": words, "image token scores": image_tokens}


def scored_tokens(options: LoraConfig, q: QFormerConfig, rows: int) -> int:
    """Positions that are predicted: a document's second part (image with marks, or caption) and its end."""
    image = q.queries + 3
    caption = max(1, options.max_tokens - q.queries - 3)
    share = options.caption_first_share
    return round(rows * (share * image + (1 - share) * caption))


def tower(t: Tower) -> int:
    """The forward pass of one sample through a frozen encoder; 0 where its operations are not known."""
    if not t.layers:
        return 0
    patches = 2 * (t.tokens - 1) * t.patch_inputs * t.width
    return patches + flops.transformer(t.tokens, t.width, t.layers, t.mlp_width) + 2 * t.width * t.embedding
