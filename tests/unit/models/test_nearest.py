"""Nearest codes against brute force in float64, and k-means."""

from __future__ import annotations

import pytest
import torch

from seed_dist.models import nearest
from seed_dist.models.nearest import k_means, nearest_codes


def brute_force(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return (vectors.double()[:, None] - codes.double()).square().sum(-1).argmin(1)


@pytest.mark.parametrize("chunk", [1, 64, 1 << 21])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_equals_brute_force_whatever_the_blocks(monkeypatch, chunk, count):
    monkeypatch.setattr(nearest, "_SCORES_ON_CPU", chunk)
    generator = torch.Generator().manual_seed(count)
    vectors, codes = (torch.randn(n, 8, generator=generator) for n in (count, 50))
    found = nearest_codes(vectors, codes)
    assert found.dtype == torch.int64
    assert torch.equal(found, brute_force(vectors, codes))


def test_right_on_the_published_initialisation_where_the_full_distance_is_not():
    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand(8192, 32, generator=generator) * 2 - 1) / 8192
    vectors = torch.randn(3000, 32, generator=generator)
    exact = (codes.double().square().sum(1) / 2 - vectors.double() @ codes.double().T).argmin(1)
    full = vectors.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * vectors @ codes.T
    assert (full.argmin(1) != exact).sum() > 0
    assert torch.equal(nearest_codes(vectors, codes), exact)


def test_half_precision_inputs_are_compared_in_float32():
    generator = torch.Generator().manual_seed(0)
    vectors, codes = (torch.randn(n, 8, generator=generator).half() for n in (100, 200))
    assert torch.equal(nearest_codes(vectors, codes), brute_force(vectors, codes))


def test_no_vectors():
    assert nearest_codes(torch.empty(0, 4), torch.randn(3, 4)).shape == (0,)


def test_ties_go_to_the_lowest_index():
    assert nearest_codes(torch.zeros(2, 3), torch.ones(5, 3)).tolist() == [0, 0]


def clusters(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.randn(10, 4, generator=generator)
    which = torch.arange(1000) % 10
    return centres, centres[which] + torch.randn(1000, 4, generator=generator)


def error(vectors: torch.Tensor, codes: torch.Tensor) -> float:
    return float((vectors - codes[nearest_codes(vectors, codes)]).square().sum(1).mean())


def test_k_means_finds_separate_clusters():
    centres, vectors = clusters()
    found = k_means(vectors, 10, seed=1, iterations=30)
    assert error(vectors, found) < 1.1 * error(vectors, centres)


def test_k_means_improves_with_iterations_and_uses_every_centre():
    vectors = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    errors = [error(vectors, k_means(vectors, 40, seed=3, iterations=n)) for n in (0, 2, 10)]
    assert errors[0] > errors[1] > errors[2]
    assert len(nearest_codes(vectors, k_means(vectors, 40, seed=3)).unique()) == 40


def test_k_means_depends_on_its_arguments_only():
    _, vectors = clusters()
    first = k_means(vectors, 10, seed=1)
    torch.manual_seed(123)
    assert torch.equal(k_means(vectors, 10, seed=1), first)
    assert not torch.equal(k_means(vectors, 10, seed=2), first)


def test_k_means_with_fewer_vectors_than_clusters():
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    centres = k_means(vectors, 16, seed=0)
    assert centres.shape == (16, 4)
    assert len(centres.unique(dim=0)) == 16
    assert error(vectors, centres) < 1e-3
