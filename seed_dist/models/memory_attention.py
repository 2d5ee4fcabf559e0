"""Attention of few queries to a long memory, without computing the memory's keys and values.

softmax(q (M Wk)^T) (M Wv) is the same as softmax((q Wk^T) M^T) M Wv: the projections move to the side of the queries.
With Q queries, heads of width d and a memory of M vectors this takes Q * (1/d + 1/M) of the multiplications: 0.62 for
32 queries that read 257 patches by heads of 64, and the same share of the backward pass. The key's bias adds one number
to all scores of a query, which the softmax takes out again, so it is left out; its gradient is zero.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Affine = tuple[Tensor, Tensor]


def is_cheaper(queries: int, memory_length: int, head_width: int) -> bool:
    """Whether `attend_memory` needs fewer multiplications than projecting the memory."""
    return queries * (1 / head_width + 1 / memory_length) < 1


def attend_memory(
    query: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, affine: Affine | None, heads: int, dropout: float = 0.0
) -> Tensor:
    """Projected queries [B, Q, W] and memory [B, M, V] -> [B, Q, W], by the rows of `key_value` in weight and bias.

    `weight` [2W, V] and `bias` [2W] hold key and value; `affine` = (gain [V], shift [V]) stands for a memory of
    `gain * memory + shift` and excludes a gradient of the memory itself. Equal to `scaled_dot_product_attention` over
    heads of the projected memory; `dropout` acts on the attention probabilities. The softmax is taken in fp32.
    """
    gain, shift = affine or (None, None)
    mixed: Tensor = _AttendMemory.apply(  # type: ignore[no-untyped-call]
        query, memory, weight, bias, gain, shift, heads, dropout
    )
    return mixed


def fold(weight: Tensor, bias: Tensor, affine: Affine | None) -> tuple[Tensor, Tensor]:
    """The projection of `gain * memory + shift` as one of the memory: W (g*m + s) + b = (W*g) m + (W s + b)."""
    if affine is None:
        return weight, bias
    gain, shift = affine
    folded_bias = torch.addmv(bias.float(), weight.float(), shift.float()).to(weight.dtype)
    return (weight.float() * gain.float()).to(weight.dtype), folded_bias


class _AttendMemory(torch.autograd.Function):
    """Written out because autograd would keep both products of width V; here the second takes the place of the first.

    They lie as [B * Q, heads, V]: the rows of one sample are then one matrix, and those of one head another, so that no
    product needs a copy. The folded projections are not kept either: they cost less to make again than to hold.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        gain, shift, heads, dropout = rest
        (key, value), value_bias = _projections(weight, bias, gain, shift)
        wide = _to_memory_width(_split(query, heads), key)
        scores = torch.bmm(_by_sample(wide, memory), memory.transpose(1, 2)).mul_(_scale(key, heads))
        probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(memory.dtype)
        keep = torch.empty_like(probabilities, dtype=torch.bool).bernoulli_(1 - dropout) if dropout > 0 else None
        dropped = _drop(probabilities, keep, dropout)
        torch.bmm(dropped, memory, out=_by_sample(wide, memory))
        ctx.save_for_backward(query, memory, weight, bias, gain, shift, probabilities, keep, wide)
        ctx.heads, ctx.dropout = heads, dropout
        return _from_memory_width(wide, value).add_(_bias_share(dropped, keep, value_bias, heads)).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mixed_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, memory, weight, bias, gain, shift, probabilities, keep, wide = ctx.saved_tensors
        heads = ctx.heads
        (key, value), value_bias = _projections(weight, bias, gain, shift)
        split_query, split_grad = _split(query, heads), _split(mixed_grad, heads)
        dropped = _drop(probabilities, keep, ctx.dropout)
        weight_grad, bias_grad = torch.empty_like(weight), torch.zeros_like(bias)  # the key's bias changes nothing
        key_grad, value_grad = weight_grad.chunk(2)
        _sum_outer(split_grad, wide, out=value_grad)

        wide_grad = _to_memory_width(split_grad, value)
        grad = torch.bmm(_by_sample(wide_grad, memory), memory.transpose(1, 2))
        if keep is None:
            bias_grad[len(key) :] = split_grad.sum(0).flatten()
        else:
            bias_grad[len(key) :] = (split_grad * dropped.sum(-1).view(-1, heads, 1)).sum(0).flatten()
            by_bias = (split_grad * value_bias.view(heads, -1)).sum(-1)
            grad = _drop(grad + by_bias.view(*grad.shape[:2], 1), keep, ctx.dropout)
        grad = _softmax_grad(grad, probabilities).mul_(_scale(key, heads)).to(memory.dtype)

        memory_grad = None
        if ctx.needs_input_grad[1]:
            memory_grad = torch.bmm(dropped.transpose(1, 2), _by_sample(wide_grad, memory))
            memory_grad.baddbmm_(grad.transpose(1, 2), _by_sample(_to_memory_width(split_query, key), memory))
        torch.bmm(grad, memory, out=_by_sample(wide_grad, memory))
        _sum_outer(split_query, wide_grad, out=key_grad)
        query_grad = _from_memory_width(wide_grad, key).view(query.shape)
        affine_grad = _unfold_grads(weight_grad, bias_grad, weight, gain, shift)
        return query_grad, memory_grad, weight_grad, bias_grad, *affine_grad, None, None


def _projections(
    weight: Tensor, bias: Tensor, gain: Tensor | None, shift: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Key and value [W, V] and the value's bias [W], for the memory without its affine part."""
    folded, folded_bias = fold(weight, bias, None if gain is None or shift is None else (gain, shift))
    return folded.chunk(2), folded_bias.chunk(2)[1]


def _unfold_grads(
    weight_grad: Tensor, bias_grad: Tensor, weight: Tensor, gain: Tensor | None, shift: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the folded projection become, in place, those of the plain one; the value is gain's and shift's.

    By the chain rule of W' = W*g and b' = W s + b: dW = dW'*g + db' s^T, dg = sum of W*dW' over rows, ds = W^T db'.
    """
    if gain is None or shift is None:
        return None, None
    gain_grad = (weight_grad.float() * weight).sum(0).to(gain.dtype)
    shift_grad = torch.mv(weight.T, bias_grad).to(shift.dtype)
    weight_grad.mul_(gain).addr_(bias_grad, shift.to(bias_grad.dtype))
    return gain_grad, shift_grad


def _softmax_grad(grad: Tensor, probabilities: Tensor) -> Tensor:
    """Gradient of the scores from that of their softmax, in fp32: p * (grad - sum of p * grad)."""
    grad, p = grad.float(), probabilities.float()
    return grad.sub_((grad * p).sum(-1, keepdim=True)).mul_(p)


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, Q, W] -> [B * Q, heads, d]."""
    return x.reshape(-1, heads, x.shape[-1] // heads)


def _by_sample(wide: Tensor, memory: Tensor) -> Tensor:
    """[B * Q, heads, V] -> [B, Q * heads, V], the same numbers."""
    return wide.view(len(memory), -1, memory.shape[-1])


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection [W, V] -> [heads, d, V]."""
    return weight.view(heads, -1, weight.shape[-1])


def _to_memory_width(x: Tensor, weight: Tensor) -> Tensor:
    """[B * Q, heads, d] through a projection [W, V], from its outputs to its inputs -> [B * Q, heads, V]."""
    wide = x.new_empty(*x.shape[:2], weight.shape[-1])
    torch.bmm(x.transpose(0, 1), _by_head(weight, x.shape[1]), out=wide.transpose(0, 1))
    return wide


def _from_memory_width(wide: Tensor, weight: Tensor) -> Tensor:
    """[B * Q, heads, V] through a projection [W, V] -> [B * Q, heads, d], contiguous."""
    narrow = wide.new_empty(*wide.shape[:2], weight.shape[0] // wide.shape[1])
    by_head = _by_head(weight, wide.shape[1]).transpose(1, 2)
    torch.bmm(wide.transpose(0, 1), by_head, out=narrow.transpose(0, 1))
    return narrow


def _sum_outer(x: Tensor, wide: Tensor, out: Tensor) -> None:
    """Sum over all queries of the outer products of [B * Q, heads, d] and [B * Q, heads, V] -> `out` [W, V]."""
    torch.bmm(x.permute(1, 2, 0), wide.transpose(0, 1), out=_by_head(out, x.shape[1]))


def _drop(x: Tensor, keep: Tensor | None, dropout: float) -> Tensor:
    return x if keep is None else x * keep / (1 - dropout)


def _bias_share(dropped: Tensor, keep: Tensor | None, bias: Tensor, heads: int) -> Tensor:
    """What the value's bias adds: itself times the sum of a query's probabilities, which is 1 without dropout."""
    by_head = bias.view(heads, -1)
    return by_head if keep is None else dropped.sum(-1).view(-1, heads, 1) * by_head


def _scale(weight: Tensor, heads: int) -> float:
    """1 / sqrt(d), as in scaled dot-product attention."""
    return float((weight.shape[0] // heads) ** -0.5)
