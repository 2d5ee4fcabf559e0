"""The published modules written out plainly from their formulas and parameter names: no fused matrices, no shared code.

Every function takes a dictionary of tensors under the published names, so that gradients can be asked for by name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Head by head; `bias` is added to the scores."""
    size = query.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / math.sqrt(size) + bias
        outputs.append(scores.softmax(-1) @ value[..., part])
    return torch.cat(outputs, -1)


def bert_attention(w: Weights, name: str, x: Tensor, memory: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    query, key, value = (
        linear(w, f"{name}.self.{part}", source) for part, source in (("query", x), ("key", memory), ("value", memory))
    )
    mixed = linear(w, f"{name}.output.dense", attention(query, key, value, heads, bias))
    return norm(w, f"{name}.output.LayerNorm", mixed + x, 1e-12)


def bert(
    w: Weights, name: str, x: Tensor, heads: int, bias: Tensor | float, memory: Tensor | None, suffix: str
) -> Tensor:
    """All layers that `w` has under `name`; `suffix` '_query' or '' picks the feed-forward part."""
    x = norm(w, f"{name}.embeddings.LayerNorm", x, 1e-12)
    index = 0
    while f"{name}.encoder.layer.{index}.attention.self.query.weight" in w:
        layer = f"{name}.encoder.layer.{index}"
        x = bert_attention(w, f"{layer}.attention", x, x, heads, bias)
        if memory is not None and f"{layer}.crossattention.self.query.weight" in w:
            x = bert_attention(w, f"{layer}.crossattention", x, memory, heads)
        inner = gelu(linear(w, f"{layer}.intermediate{suffix}.dense", x))
        outer = linear(w, f"{layer}.output{suffix}.dense", inner)
        x = norm(w, f"{layer}.output{suffix}.LayerNorm", outer + x, 1e-12)
        index += 1
    return x


def causal_embeddings(w: Weights, patch_features: Tensor, heads: int) -> Tensor:
    memory = norm(w, "ln_vision", patch_features, 1e-5)
    queries = w["query_tokens"].repeat(len(patch_features), 1, 1)
    count = queries.shape[1]
    future = torch.arange(count)[None, :] > torch.arange(count)[:, None]
    return bert(w, "Qformer.bert", queries, heads, future * -10000.0, memory, "_query")


def text_hidden(w: Weights, input_ids: Tensor, attention_mask: Tensor, heads: int) -> Tensor:
    words = w["Qformer.bert.embeddings.word_embeddings.weight"][input_ids]
    x = words + w["Qformer.bert.embeddings.position_embeddings.weight"][: input_ids.shape[1]]
    bias = (1 - attention_mask[:, None, :].to(x.dtype)) * -10000.0
    return bert(w, "Qformer.bert", x, heads, bias, None, "")


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def contrastive_loss(
    w: Weights, causal: Tensor, hidden: Tensor, smoothing: float, gather_with_gradient: bool = True
) -> Tensor:
    """All pairs on one rank. Without gradient through the gather, what a row is compared with is a constant."""
    image = unit(linear(w, "vision_proj", causal[:, -1]))
    text = unit(linear(w, "text_proj", hidden[:, 0]))
    count = len(image)
    target = torch.eye(count, dtype=image.dtype) * (1 - smoothing) + smoothing / count
    losses = []
    for first, second in ((image, text), (text, image)):
        compared = second if gather_with_gradient else second.detach()
        logits = first @ compared.T / w["temp"]
        log_p = logits - logits.exp().sum(1, keepdim=True).log()
        losses.append(-(target * log_p).sum(1).mean())
    return (losses[0] + losses[1]) / 2


def vit_blocks(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    index = 0
    while f"{name}.{index}.norm1.weight" in w:
        block = f"{name}.{index}"
        query, key, value = linear(w, f"{block}.attn.qkv", norm(w, f"{block}.norm1", x, 1e-6)).split(x.shape[-1], -1)
        x = x + linear(w, f"{block}.attn.proj", attention(query, key, value, heads))
        inner = gelu(linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x, 1e-6)))
        x = x + linear(w, f"{block}.mlp.fc2", inner)
        index += 1
    return x


def head(w: Weights, x: Tensor, heads: int) -> Tensor:
    if "reverse_tokens" in w:
        queries = w["reverse_tokens"].repeat(len(x), 1, 1)
        x = bert(w, "Reverse_Qformer.bert", queries, heads, 0.0, x, "_query")
        return linear(w, "distill_image_proj", x).squeeze(1)
    for index in (0, 2):
        x = torch.relu(linear(w, f"image_down.{index}", x))
    return linear(w, "distill_image_proj", linear(w, "image_down.4", x).flatten(1))


def two_layers(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.2", torch.tanh(linear(w, f"{name}.0", x)))


def tokenizer(w: Weights, causal: Tensor, heads: int) -> dict[str, Tensor]:
    """Codes, both decoders' outputs and the two losses of stage 2 that need no target, from causal embeddings."""
    z = two_layers(w, "encode_task_layer", causal)
    table = w["quantize.embedding.weight"]
    distances = z.square().sum(-1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T
    codes = distances.argmin(-1)
    e = table[codes]
    codebook_loss = (e.detach() - z).square().mean() + 0.25 * (e - z.detach()).square().mean()
    decoded = two_layers(w, "decode_task_layer", z + (e - z).detach())
    reconstructed = vit_blocks(w, "blocks", decoded + w["pos_embed"], heads)
    return {
        "codes": codes,
        "codebook_loss": codebook_loss,
        "decoded_embeddings": decoded,
        "reconstructed_embeddings": reconstructed,
        "reconstruction_loss": (1 - (unit(reconstructed) * unit(causal)).sum(-1)).mean(),
        "generation_embedding": head(w, vit_blocks(w, "blocks_image", decoded + w["pos_embed_image"], heads), heads),
    }


def assert_gradients(
    found: dict[str, Tensor], naive_loss: Tensor, weights: dict[str, Tensor], tolerance: float
) -> None:
    """Gradients by published name are those of `naive_loss`, relative to their largest entry; most are not zero."""
    expected = dict(zip(weights, torch.autograd.grad(naive_loss, weights.values(), allow_unused=True), strict=True))
    assert found.keys() == expected.keys()
    moved = 0
    for name, gradient in expected.items():
        gradient = torch.zeros_like(weights[name]) if gradient is None else gradient
        moved += bool(gradient.abs().max() > 1e-9)
        error = float((found[name] - gradient).abs().max())
        assert error <= tolerance * float(gradient.abs().max()) + 1e-9, f"{name}: {error}"
    assert moved > 0.8 * len(expected)
