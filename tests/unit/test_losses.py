"""The losses against plain formulas, and that the number of ranks does not change them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from seed_dist.config import CodebookConfig
from seed_dist.losses import codebook_losses, contrastive_loss, generation_loss, quantizer_loss, reconstruction_loss


def features(count: int = 12, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(count, width, generator=generator), dim=-1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


TEMPERATURE = torch.tensor(0.2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_contrastive_loss_of_one_rank(smoothing):
    image, text = features()
    target = torch.eye(12) * (1 - smoothing) + smoothing / 12
    logits = image @ text.T / TEMPERATURE
    expected = -(target * logits.log_softmax(1)).sum() / 24 - (target * logits.T.log_softmax(1)).sum() / 24
    torch.testing.assert_close(contrastive_loss(image, text, TEMPERATURE, smoothing), expected)


def test_negatives_are_further_columns_for_images_only():
    image, text = features()
    wrong = -text.detach()[:5]
    to_text = torch.cat([image @ text.T, image @ wrong.T], dim=1) / TEMPERATURE
    to_image = text @ image.T / TEMPERATURE
    expected = (F.cross_entropy(to_text, torch.arange(12)) + F.cross_entropy(to_image, torch.arange(12))) / 2
    found = contrastive_loss(image, text, TEMPERATURE, negatives=wrong)
    torch.testing.assert_close(found, expected)
    assert found > contrastive_loss(image, text, TEMPERATURE)


def losses_by_rank(image: torch.Tensor, text: torch.Tensor, ranks: int, with_gradient: bool) -> list[torch.Tensor]:
    """Each rank's loss. `gather` gives all features as one tensor."""
    image_parts, text_parts = image.chunk(ranks), text.chunk(ranks)

    def gather(part: torch.Tensor) -> torch.Tensor:
        whole = image if any(part is x for x in image_parts) else text
        return whole if with_gradient else whole.detach()

    rows = len(image_parts[0])
    return [
        contrastive_loss(image_parts[rank], text_parts[rank], TEMPERATURE, 0.1, gather, rank * rows)
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 12])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_ranks_do_not_change_the_loss(ranks, with_gradient):
    image, text = features()
    mean = torch.stack(losses_by_rank(image, text, ranks, with_gradient)).mean()
    torch.testing.assert_close(mean, contrastive_loss(image, text, TEMPERATURE, 0.1))


@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients_of_ranks_add_up_to_those_of_one(ranks):
    image, text = features()
    expected = torch.autograd.grad(contrastive_loss(image, text, TEMPERATURE, 0.1), (image, text))
    with_gradient = torch.autograd.grad(torch.stack(losses_by_rank(image, text, ranks, True)).mean(), (image, text))
    without = torch.autograd.grad(torch.stack(losses_by_rank(image, text, ranks, False)).mean(), (image, text))
    for found, other, right in zip(with_gradient, without, expected, strict=True):
        torch.testing.assert_close(found, right)
        assert (other - right).abs().max() > 1e-3  # the published gather is another gradient


def test_perfect_pairs_cost_nothing_and_shuffled_pairs_do():
    image = torch.eye(5)
    assert contrastive_loss(image, image, torch.tensor(0.01)) < 1e-6
    assert contrastive_loss(image, image.roll(1, 0), torch.tensor(0.01)) > 50


def test_temperature_gets_a_gradient_and_half_precision_is_computed_in_float32():
    image, text = features()
    temperature = TEMPERATURE.clone().requires_grad_()
    loss = contrastive_loss(image.half(), text.half(), temperature)
    loss.backward()
    assert loss.dtype == torch.float32
    assert temperature.grad.abs() > 0


def test_reconstruction_is_one_minus_cosine():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5, requires_grad=True)
    expected = 1 - (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)
    torch.testing.assert_close(reconstruction_loss(a, b), expected.mean())
    assert reconstruction_loss(3 * a, a) == pytest.approx(0, abs=1e-6)
    assert not reconstruction_loss(a, b).requires_grad  # the target


def test_generation_is_a_plain_mean_of_squares():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    torch.testing.assert_close(generation_loss(a, b), (a - b).square().sum() / 60)
    with pytest.raises(AssertionError):
        generation_loss(a, b[:, :1])  # would broadcast


class Terms(NamedTuple):
    commitment: torch.Tensor
    codebook: torch.Tensor
    entropy: torch.Tensor


class Output(NamedTuple):
    quantized: Terms
    reconstructed: torch.Tensor
    generation: torch.Tensor


def test_weights_of_stage_2():
    config = CodebookConfig(entropy_loss_weight=0.5)
    causal = torch.randn(2, 3, 4)
    output = Output(Terms(*torch.tensor([2.0, 4.0, 6.0])), torch.randn(2, 3, 4), torch.zeros(2, 8))
    losses = codebook_losses(output, causal, torch.ones(2, 8), config)
    assert float(losses["quantizer"]) == float(quantizer_loss(output.quantized, config)) == 2 + 0.25 * 4 + 0.5 * 6
    assert float(losses["generation"]) == 1
    assert float(losses["loss"]) == pytest.approx(5 * 6 + 2 * float(losses["reconstruction"]) + 0.5)
    assert losses.keys() == {"loss", "quantizer", "commitment", "codebook", "entropy", "reconstruction", "generation"}
