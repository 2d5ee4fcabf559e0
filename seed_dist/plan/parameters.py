"""How many numbers a model has, by its modules. Same names as the modules themselves."""

from __future__ import annotations

from itertools import pairwise

from seed_dist.config import CodebookConfig, LoraConfig, QFormerConfig
from seed_dist.plan.backbones import LanguageModel, Tower

REVERSE_CROSS_EVERY = 2  # as models/tokenizer.py
MLP_HEAD = (256, 128)
MLP_HEAD_FLAT = 1024


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


def norm(width: int) -> int:
    return 2 * width


def mlp(width: int, hidden: int) -> int:
    return linear(width, hidden) + linear(hidden, width)


def crossing_layers(layers: int, cross_every: int) -> int:
    """Layers with cross-attention: 0, `cross_every`, 2 * `cross_every`, ..."""
    return -(-layers // cross_every)


def query_encoder(width: int, mlp_width: int, layers: int, crossing: int, memory_width: int) -> int:
    """BERT layers on queries, and the norm before them."""
    layer = 4 * linear(width, width) + mlp(width, mlp_width) + 2 * norm(width)
    cross = 2 * linear(width, width) + 2 * linear(memory_width, width) + norm(width)
    return norm(width) + layers * layer + crossing * cross


def causal_qformer(q: QFormerConfig) -> dict[str, int]:
    """Stage 1, all trained."""
    image_path = query_encoder(q.width, q.mlp_width, q.layers, crossing_layers(q.layers, q.cross_every), q.vision_width)
    return {
        "ln_vision": norm(q.vision_width),
        "query_tokens": q.queries * q.width,
        "encoder": image_path + q.layers * (mlp(q.width, q.mlp_width) + norm(q.width)),  # the text's feed-forward part
        "word_embeddings": q.vocabulary_size * q.width,
        "position_embeddings": q.text_positions * q.width,
        "vision_proj": linear(q.width, q.projection_width),
        "text_proj": linear(q.width, q.projection_width),
        "temperature": 1,
    }


def codebook(c: CodebookConfig, q: QFormerConfig) -> dict[str, int]:
    """Stage 2, all trained."""
    width = q.width
    block = 2 * norm(width) + 4 * linear(width, width) + mlp(width, 4 * width)
    decoder = q.queries * width + c.decoder_layers * block
    return {
        "encode": linear(width, width) + linear(width, c.width),
        "quantizer": c.size * c.width,
        "decode_mlp": linear(c.width, c.width) + linear(c.width, width),
        "reconstruction": decoder,
        "image": decoder,
        "head": _head(c, q),
    }


def _head(c: CodebookConfig, q: QFormerConfig) -> int:
    if c.head == "mlp":
        sizes = mlp_head_sizes(q)
        squeeze = sum(linear(a, b, bias=False) for a, b in pairwise(sizes))
        return squeeze + linear(q.queries * sizes[-1], c.generation_width)
    crossing = crossing_layers(c.head_layers, REVERSE_CROSS_EVERY)
    encoder = query_encoder(q.width, q.mlp_width, c.head_layers, crossing, q.width)
    return c.head_queries * q.width + encoder + linear(q.width, c.generation_width)


def mlp_head_sizes(q: QFormerConfig) -> tuple[int, ...]:
    """Widths of the `mlp` head's squeeze, per token."""
    return (q.width, *MLP_HEAD, max(1, MLP_HEAD_FLAT // q.queries))


def lora(options: LoraConfig, c: CodebookConfig, model: LanguageModel) -> dict[str, int]:
    """Stage 3: what is trained. Module names that the base does not have count nothing."""
    sizes = [model.linears[name] for name in options.target_modules if name in model.linears]
    rows = (c.size + 2) * model.width  # codes and the two marks
    if options.image_embedding == "codebook":
        tokens = linear(c.width, model.width) + 2 * model.width + rows
    else:
        tokens = rows if model.tied else 2 * rows
    adapters = model.layers * sum(options.rank * (inputs + outputs) for inputs, outputs in sizes)
    return {"adapters": adapters, "image_tokens": tokens}


def language_base(model: LanguageModel) -> int:
    """The frozen language model."""
    is_opt = model.kind == "opt"
    projections = sum(linear(inputs, outputs, bias=is_opt) for inputs, outputs in model.linears.values())
    norms = 2 * (norm(model.width) if is_opt else model.width)
    words = model.vocabulary * model.width * (1 if model.tied else 2)
    positions = (model.positions + 2) * model.width if is_opt else 0  # OPT begins to count at 2
    return words + positions + model.layers * (projections + norms) + norms // 2


def tower(t: Tower) -> int:
    """A frozen encoder, to within its biases and positions, which are less than 1 % of it."""
    return t.layers * (4 * t.width**2 + 2 * t.width * t.mlp_width) + t.patch_inputs * t.width + t.width * t.embedding
