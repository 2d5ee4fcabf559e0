"""Attention and transformer blocks: BERT's post-norm layer for the Q-Formers, the pre-norm ViT block for the decoders.

One mask convention everywhere, that of `scaled_dot_product_attention`: boolean, True where a query may look at a key,
broadcastable to [B, heads, Q, K]; None means everything. `causal=True` is lower triangular including the diagonal.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seed_dist.models.memory_attention import Affine, attend_memory, fold, is_cheaper

BERT_NORM_EPS = 1e-12  # bert-base-uncased
VIT_NORM_EPS = 1e-6  # timm's ViT block, as in the published decoders


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Attention over heads: [B, H, Q, d], [B, H, K, d] twice -> [B, Q, H*d]."""
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def _split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts*W] -> `parts` tensors [B, heads, N, W/heads]."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, heads, width // parts // heads).permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(nn.Module):
    """Self-attention with one projection `qkv` (rows: query, key, value) and an output projection.

    `dropout` acts on the attention probabilities while training. The output has no dropout and no residual.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """[B, N, W] -> [B, N, W]."""
        query, key, value = _split_heads(self.qkv(x), 3, self.heads)
        return self._project(attend(query, key, value, mask, causal, self._dropout()))

    def last(self, x: Tensor) -> Tensor:
        """Only the last position's output, [B, N, W] -> [B, 1, W]: it sees every position, causal or not."""
        weight, bias = self.qkv.weight, self.qkv.bias
        (query,) = _split_heads(F.linear(x[:, -1:], weight[: self.width], bias[: self.width]), 1, self.heads)
        key, value = _split_heads(F.linear(x, weight[self.width :], bias[self.width :]), 2, self.heads)
        return self._project(attend(query, key, value, dropout=self._dropout()))

    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0

    def _project(self, mixed: Tensor) -> Tensor:
        projected: Tensor = self.out(mixed)
        return projected


class CrossAttention(nn.Module):
    """Attention from [B, Q, W] to a memory [B, M, V]; `key_value` holds the rows of both projections."""

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, affine: Affine | None = None) -> Tensor:
        """`affine` = (gain [V], shift [V]) stands for a memory of `gain * memory + shift`.

        It is folded into the projection, so that the memory itself needs no gradient. `x` may have batch 1 for any
        memory batch.
        """
        weight, bias = self.key_value.weight, self.key_value.bias
        dropout = self.dropout if self.training else 0.0
        query = self.query(x).expand(len(memory), -1, -1)
        if is_cheaper(query.shape[1], memory.shape[1], query.shape[2] // self.heads):
            mixed = attend_memory(query, memory, weight, bias, affine, self.heads, dropout)
        else:
            key, value = _split_heads(F.linear(memory, *fold(weight, bias, affine)), 2, self.heads)
            (heads_of_query,) = _split_heads(query, 1, self.heads)
            mixed = attend(heads_of_query, key, value, dropout=dropout)
        projected: Tensor = self.out(mixed)
        return projected


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down(F.gelu(self.up(x)))
        return projected


class BertLayer(nn.Module):
    """One post-norm BERT layer with separate feed-forward parts for queries and text and shared self-attention.

    `memory_width` None leaves out the cross-attention; `text` False leaves out the text feed-forward part.
    """

    def __init__(
        self, width: int, heads: int, mlp_width: int, memory_width: int | None, dropout: float, text: bool
    ) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width, heads, dropout)
        self.self_norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        if memory_width is not None:
            self.cross_attention: CrossAttention | None = CrossAttention(width, memory_width, heads, dropout)
            self.cross_norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        else:
            self.cross_attention = None
        self.query_mlp = Mlp(width, mlp_width)
        self.query_norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        if text:
            self.text_mlp = Mlp(width, mlp_width)
            self.text_norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, affine: Affine | None = None, causal: bool = False, last_only: bool = False
    ) -> Tensor:
        """Queries: [B, Q, W] with memory [B, M, V] -> [B, Q, W], or [B, 1, W] with `last_only`."""
        if last_only:
            x = self.self_norm(x[:, -1:] + self.dropout(self.self_attention.last(x)))
        else:
            x = self.self_norm(x + self.dropout(self.self_attention(x, causal=causal)))
        if self.cross_attention is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attention(x, memory, affine)))
        x = self.query_norm(x + self.dropout(self.query_mlp(x)))
        return x

    def forward_text(self, x: Tensor, mask: Tensor) -> Tensor:
        """Text: [B, T, W], every position sees all that `mask` allows; no cross-attention."""
        x = self.self_norm(x + self.dropout(self.self_attention(x, mask)))
        x = self.text_norm(x + self.dropout(self.text_mlp(x)))
        return x


class ViTBlock(nn.Module):
    """Pre-norm block without dropout: attention over all positions, feed-forward part four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=VIT_NORM_EPS)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=VIT_NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


def initialise_as_bert(module: nn.Module) -> None:
    """BERT's initialisation: matrices and embeddings N(0, 0.02), biases 0, norms 1 and 0. For `nn.Module.apply`."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
