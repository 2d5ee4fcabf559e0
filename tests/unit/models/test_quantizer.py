"""The quantizer: published losses and straight-through gradient; usage over a window; start and revival of codes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from seed_dist.config import CodebookConfig
from seed_dist.losses import quantizer_loss
from seed_dist.models.code_usage import CodeUsage, usage_of
from seed_dist.models.quantizer import VectorQuantizer

CONFIG = CodebookConfig(size=10, width=4, usage_window_steps=3)


def build(**changes) -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(replace(CONFIG, **changes))
    quantizer.embedding.weight.data.normal_()
    return quantizer


def encoded() -> torch.Tensor:
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))


def test_published_initialisation():
    weight = VectorQuantizer(replace(CONFIG, size=500)).embedding.weight.detach()
    assert weight.abs().max() <= 1 / 500
    assert weight.std() == pytest.approx(2 / 500 / math.sqrt(12), rel=0.1)


def test_codes_vectors_and_lookup_agree():
    quantizer = build()
    out = quantizer(encoded())
    assert out.codes.shape == (5, 3)
    assert torch.equal(out.codes, quantizer.codes(encoded()))
    assert torch.equal(out.vectors, quantizer.lookup(out.codes))  # exactly: training decodes what inference decodes


def test_straight_through_gradient():
    quantizer = build()
    z = encoded().requires_grad_()
    weights = torch.arange(60.0).view(5, 3, 4)
    (quantizer(z).vectors * weights).sum().backward()
    assert torch.equal(z.grad, weights)  # as if the quantizer were not there
    assert quantizer.embedding.weight.grad is None


def test_each_loss_term_moves_one_side():
    quantizer = build()
    z = encoded().requires_grad_()
    out = quantizer(z)
    e = quantizer.embedding.weight[out.codes]
    torch.testing.assert_close(out.commitment, (e - z).square().mean())
    torch.testing.assert_close(out.codebook, out.commitment)
    assert torch.autograd.grad(out.commitment, quantizer.embedding.weight, retain_graph=True, allow_unused=True) == (
        None,
    )
    (to_z,) = torch.autograd.grad(out.commitment, z, retain_graph=True)
    torch.testing.assert_close(to_z, 2 * (z - e).detach() / z.numel())
    assert torch.autograd.grad(out.codebook, z, retain_graph=True, allow_unused=True) == (None,)
    (to_e,) = torch.autograd.grad(out.codebook, quantizer.embedding.weight)
    expected = torch.zeros(10, 4).index_add_(0, out.codes.flatten(), (2 * (e - z) / z.numel()).detach().flatten(0, 1))
    torch.testing.assert_close(to_e, expected)


def test_published_weights_are_the_default():
    out = build()(encoded())
    torch.testing.assert_close(quantizer_loss(out, CONFIG), out.commitment + 0.25 * out.codebook)


def test_half_precision_input_is_compared_in_float32():
    quantizer = build()
    z = encoded().half()
    out = quantizer(z)
    assert out.vectors.dtype == torch.float32
    assert torch.equal(out.codes, quantizer.codes(z.float()))


def test_cosine_distance_ignores_lengths():
    quantizer = build(distance="cosine")
    codes = quantizer.codes(encoded())
    scaled = quantizer.codes(encoded() * torch.rand(5, 3, 1) * 9)
    similarity = torch.nn.functional.cosine_similarity(
        encoded()[:, :, None], quantizer.embedding.weight[None, None].detach(), dim=-1
    )
    assert torch.equal(codes, scaled)
    assert torch.equal(codes, similarity.argmax(-1))
    assert not torch.equal(codes, build().codes(encoded()))
    torch.testing.assert_close(quantizer.lookup(codes).norm(dim=-1), torch.ones(5, 3))


def test_entropy_term_rewards_sure_and_even_use():
    quantizer = build(size=4, entropy_loss_weight=0.1)
    quantizer.embedding.weight.data = 10 * torch.eye(4)
    spread = quantizer(10 * torch.eye(4).repeat(8, 1) + 0.1 * torch.randn(32, 4))
    collapsed = quantizer(10 * torch.eye(4)[:1].repeat(32, 1) + 0.1 * torch.randn(32, 4))
    assert spread.entropy.item() == pytest.approx(-math.log(4), abs=0.01)
    assert collapsed.entropy.item() == pytest.approx(0, abs=0.01)
    assert build()(encoded()).entropy == 0


def test_entropy_term_has_a_finite_gradient_for_unused_codes():
    quantizer = build(entropy_loss_weight=0.1)
    quantizer.embedding.weight.data[3] = 1e4  # so far away that its probability is exactly 0
    z = encoded().requires_grad_()
    quantizer(z).entropy.backward()
    assert z.grad.isfinite().all()
    assert quantizer.embedding.weight.grad.isfinite().all()
    assert z.grad.abs().max() > 0


def test_usage_is_exact_over_the_last_batches():
    usage = CodeUsage(size=4, window_steps=2)
    assert usage.usage() == (0.0, 0.0)
    batches = [torch.tensor([[0, 0], [1, 1]]), torch.tensor([2, 2]), torch.tensor([3, 3, 3, 3])]
    for batch in batches:
        usage.record(batch, lambda counts: counts)
    used, perplexity = usage.usage()  # the first batch has left the window
    assert used == 0.5
    assert perplexity == pytest.approx(math.exp(-(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))))
    assert usage.idle.tolist() == [2, 2, 1, 0]
    assert usage_of(torch.tensor([5, 5, 5, 5])) == (1.0, pytest.approx(4.0))


def test_usage_adds_up_over_ranks():
    """Two ranks with half a batch each count what one rank counts with the whole batch."""
    whole, halves = CodeUsage(4, 5), [CodeUsage(4, 5), CodeUsage(4, 5)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(7):
        codes = torch.randint(4, (6, 2), generator=generator)
        whole.record(codes, lambda counts: counts)
        total = sum(torch.bincount(half.flatten(), minlength=4) for half in codes.chunk(2))
        for rank, half in zip(halves, codes.chunk(2), strict=True):
            rank.record(half, lambda counts, total=total: total + 0 * counts)
    for name, buffer in whole.named_buffers():
        assert all(torch.equal(buffer, dict(rank.named_buffers())[name]) for rank in halves)


def test_statistics_survive_half_precision_and_checkpoints():
    quantizer = build().half()
    quantizer.record_usage(torch.arange(10))
    assert all(buffer.dtype == torch.int64 for buffer in quantizer.buffers())
    copy = build()
    copy.load_state_dict(quantizer.state_dict())
    assert copy.usage() == quantizer.usage() == (1.0, pytest.approx(10.0))


def test_k_means_start_uses_every_code():
    quantizer = build(size=16)
    vectors = torch.randn(400, 4, generator=torch.Generator().manual_seed(2)) * 3 + 5
    before = quantizer(vectors).commitment
    quantizer.initialise_from(vectors, seed=0)
    after = quantizer(vectors)
    assert after.commitment < before / 5
    assert len(after.codes.unique()) == 16
    twin = build(size=16)
    twin.initialise_from(vectors, seed=0)
    assert torch.equal(twin.embedding.weight, quantizer.embedding.weight)


def after_batches(quantizer: VectorQuantizer, codes: list[int], batches: int) -> VectorQuantizer:
    for _ in range(batches):
        quantizer.record_usage(torch.tensor(codes))
    return quantizer


def test_revival_redraws_idle_codes_from_the_batch():
    quantizer = after_batches(build(revive_after_steps=3), [0, 1, 2, 3, 4, 5, 6], batches=3)
    before = quantizer.embedding.weight.detach().clone()
    candidates = torch.randn(40, 4)
    rows, values = quantizer.revive(candidates, seed=5)
    assert rows.tolist() == [7, 8, 9]
    assert all(any(torch.equal(value, candidate) for candidate in candidates) for value in values)
    assert len(values.unique(dim=0)) == 3
    assert torch.equal(quantizer.embedding.weight[rows], values)
    assert torch.equal(quantizer.embedding.weight[:7], before[:7])
    assert quantizer.revive(candidates, seed=5).rows.numel() == 0  # their idle time starts anew


def test_revival_waits_and_can_be_off():
    assert after_batches(build(revive_after_steps=3), [0], batches=2).revive(torch.randn(9, 4), 0).rows.numel() == 0
    assert after_batches(build(revive_after_steps=0), [0], batches=9).revive(torch.randn(9, 4), 0).rows.numel() == 0


def test_revival_is_equal_on_all_ranks_and_differs_between_steps():
    candidates = torch.randn(40, 4)
    ranks = [after_batches(build(revive_after_steps=1), [0], batches=2) for _ in range(2)]
    torch.manual_seed(1)
    first = ranks[0].revive(candidates, seed=3)
    torch.manual_seed(2)
    second = ranks[1].revive(candidates, seed=3)
    assert torch.equal(first.values, second.values)
    later = after_batches(ranks[0], [0], batches=1).revive(candidates, seed=3)
    assert not torch.equal(later.values, first.values)


def test_revival_with_fewer_candidates_than_idle_codes():
    quantizer = after_batches(build(revive_after_steps=1), [0], batches=1)
    candidates = torch.randn(4, 4)
    assert quantizer.revive(candidates, seed=0).rows.tolist() == [1, 2, 3, 4]
    assert quantizer.revive(candidates, seed=0).rows.tolist() == [5, 6, 7, 8]
