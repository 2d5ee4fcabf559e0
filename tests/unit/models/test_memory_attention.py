"""Attention without projecting the memory, against scaled dot-product attention of the projected one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from seed_dist.models.attention import CrossAttention
from seed_dist.models.memory_attention import attend_memory, is_cheaper

BATCH, QUERIES, LENGTH, WIDTH, MEMORY_WIDTH, HEADS = 3, 5, 11, 12, 10, 2


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, QUERIES, WIDTH), (BATCH, LENGTH, MEMORY_WIDTH), (2 * WIDTH, MEMORY_WIDTH), (2 * WIDTH,))
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]


def split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def projected(query, memory, weight, bias, affine=None, keep=None, dropout=0.0):
    """The same by the textbook."""
    gain, shift = affine or (1, 0)
    keys, values = map(split, F.linear(gain * memory + shift, weight, bias).chunk(2, dim=-1))
    probabilities = (split(query) @ keys.transpose(-1, -2) / (WIDTH / HEADS) ** 0.5).softmax(-1)
    if keep is not None:
        probabilities = probabilities * keep.view(BATCH, QUERIES, HEADS, LENGTH).transpose(1, 2) / (1 - dropout)
    return (probabilities @ values).transpose(1, 2).flatten(2)


def affine() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    gain, shift = (torch.randn(MEMORY_WIDTH, generator=generator).requires_grad_() for _ in range(2))
    return gain, shift


def compare(ours, expected, our_leaves, expected_leaves):
    """Outputs, and gradients of all leaves under one random weighting of the outputs."""
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for output in (ours, expected):
        (output * weights).sum().backward()
    for a, b in zip(our_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=2e-5)


def test_values_and_all_gradients_equal_those_of_the_projected_memory():
    ours, theirs = inputs(), inputs()
    compare(attend_memory(*ours, None, HEADS), projected(*theirs), ours, theirs)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_affine_part_gets_its_gradient_without_one_of_the_memory(dropout):
    (ours, theirs), (our_affine, their_affine) = (inputs(), inputs()), (affine(), affine())
    ours[1].requires_grad_(False), theirs[1].requires_grad_(False)
    torch.manual_seed(7)
    mixed = attend_memory(*ours, our_affine, HEADS, dropout)
    torch.manual_seed(7)
    keep = torch.empty(BATCH, QUERIES * HEADS, LENGTH, dtype=torch.bool).bernoulli_(1 - dropout)
    expected = projected(*theirs, their_affine, keep if dropout else None, dropout)
    leaves = [[*args[:1], *args[2:], *pair] for args, pair in ((ours, our_affine), (theirs, their_affine))]
    compare(mixed, expected, *leaves)
    assert ours[1].grad is None


def test_dropout_with_a_gradient_of_the_memory():
    ours, theirs = inputs(), inputs()
    torch.manual_seed(7)
    mixed = attend_memory(*ours, None, HEADS, 0.4)
    torch.manual_seed(7)
    keep = torch.empty(BATCH, QUERIES * HEADS, LENGTH, dtype=torch.bool).bernoulli_(0.6)
    compare(mixed, projected(*theirs, None, keep, 0.4), ours, theirs)


@pytest.mark.parametrize("queries", [2, 40])
def test_both_ways_of_cross_attention_agree(monkeypatch, queries):
    torch.manual_seed(0)
    attention = CrossAttention(64, 24, heads=4).eval()
    x, memory = torch.randn(2, queries, 64), torch.randn(2, 30, 24)
    affine = (torch.rand(24) + 0.5, torch.randn(24))
    assert is_cheaper(queries, 30, 16) == (queries == 2)
    results = []
    for cheaper in (True, False):
        monkeypatch.setattr("seed_dist.models.attention.is_cheaper", lambda *_, cheaper=cheaper: cheaper)
        results.append(attention(x, memory, affine))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    plain = F.linear(affine[0] * memory + affine[1], attention.key_value.weight, attention.key_value.bias)
    keys, values = plain.unflatten(-1, (2, 4, 16)).permute(2, 0, 3, 1, 4).unbind(0)
    query = attention.query(x).unflatten(-1, (4, 16)).transpose(1, 2)
    naive = attention.out(F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(results[0], naive, rtol=1e-5, atol=1e-5)


def test_half_precision_takes_its_softmax_in_fp32():
    arguments = [x.detach() for x in inputs()]
    half = attend_memory(*(x.bfloat16() for x in arguments), None, HEADS)
    assert half.dtype == torch.bfloat16
    assert (half.float() - attend_memory(*arguments, None, HEADS)).abs().max() < 0.1
