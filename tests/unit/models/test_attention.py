"""Attention pieces against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch

from seed_dist.models.attention import BertLayer, CrossAttention, SelfAttention, ViTBlock, attend


def plain(query, key, value, mask=None):
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def heads(length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, length, 4, generator=torch.Generator().manual_seed(seed))


def test_true_in_a_mask_means_may_look():
    query, key, value = heads(5, 0), heads(6, 1), heads(6, 2)
    mask = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[..., 0] = True
    torch.testing.assert_close(attend(query, key, value, mask), plain(query, key, value, mask))
    assert not torch.allclose(attend(query, key, value, mask), plain(query, key, value))


def test_causal_is_lower_triangular_with_diagonal():
    query, key, value = heads(5, 0), heads(5, 1), heads(5, 2)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(query, key, value, causal=True), plain(query, key, value, mask))


def test_last_equals_the_last_of_all():
    torch.manual_seed(0)
    attention = SelfAttention(12, heads=3)
    x = torch.randn(2, 5, 12)
    for causal in (False, True):
        torch.testing.assert_close(attention.last(x), attention(x, causal=causal)[:, -1:])


def test_folded_affine_equals_an_affine_memory_and_its_gradients():
    torch.manual_seed(0)
    attention = CrossAttention(12, memory_width=7, heads=3)
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 6, 7)
    gain, shift = (1 + 0.3 * torch.randn(7)).requires_grad_(), torch.randn(7).requires_grad_()
    wanted = (gain, shift, *attention.parameters())
    folded = attention(x, memory, (gain, shift))
    direct = attention(x, memory * gain + shift)
    torch.testing.assert_close(folded, direct)
    weights = torch.randn_like(direct)
    found = torch.autograd.grad((folded * weights).sum(), wanted)
    expected = torch.autograd.grad((direct * weights).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_query_row_serves_any_batch():
    torch.manual_seed(0)
    attention = CrossAttention(12, memory_width=7, heads=3)
    x, memory = torch.randn(1, 5, 12), torch.randn(4, 6, 7)
    torch.testing.assert_close(attention(x, memory), attention(x.expand(4, -1, -1), memory))


@pytest.mark.parametrize("module", [SelfAttention(12, 3, 0.5), CrossAttention(12, 12, 3, 0.5)])
def test_dropout_only_while_training(module):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12)
    arguments = (x,) if isinstance(module, SelfAttention) else (x, x)
    assert not torch.equal(module.train()(*arguments), module(*arguments))
    assert torch.equal(module.eval()(*arguments), module(*arguments))


def test_vit_block_is_a_residual_of_both_parts():
    torch.manual_seed(0)
    block, x = ViTBlock(12, heads=3), torch.randn(2, 5, 12)
    middle = x + block.attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))
    assert block.mlp.up.out_features == 48


def test_layers_without_memory_have_no_cross_attention():
    layer = BertLayer(12, 3, 24, memory_width=None, dropout=0.0, text=False)
    names = [name for name, _ in layer.named_parameters()]
    assert names
    assert not any("cross" in name or "text" in name for name in names)
