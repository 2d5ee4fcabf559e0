"""The Frechet distance against closed forms, scipy's matrix root and torch-fidelity; its spread against many draws."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

import seed_dist.models  # noqa: F401 - its torchvision guard lets torch_fidelity load
from seed_dist.metrics.frechet import frechet_distance

from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # isort: skip


def by_formula(first, second):
    """As published, in float64, by scipy's root of the product."""
    covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (first, second)]
    apart = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    return apart @ apart + np.trace(sum(covariances)) - 2 * np.trace(sqrtm(covariances[0] @ covariances[1]).real)


def by_torch_fidelity(first, second):
    statistics = [fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def pairs(count, width, seed=0, noise=0.7):
    """Correlated features of both sets, stretched by different maps, at different means."""
    rng = np.random.default_rng(seed)
    maps = np.random.default_rng(9).normal(size=(2, width, width)) / width**0.5
    base = rng.normal(size=(count, width))
    return base @ maps[0], (base + noise * rng.normal(size=(count, width))) @ maps[1] + 0.3


@pytest.mark.parametrize(("count", "width"), [(400, 24), (24, 24), (25, 24), (12, 40), (2, 40)])
def test_it_is_the_published_formula(count, width):
    first, second = pairs(count, width)
    found = frechet_distance(first, second).value
    scale = first.var(0).sum()
    assert found == pytest.approx(by_formula(first, second), abs=1e-5 * scale)  # the root of a singular matrix is rough
    assert found == pytest.approx(by_torch_fidelity(first, second), abs=1e-5 * scale)
    if count > 2 * width:
        assert found == pytest.approx(by_formula(first, second), rel=1e-10)
    assert frechet_distance(second, first).value == pytest.approx(found, rel=1e-12)
    assert frechet_distance(first + 1000, second + 1000).value == pytest.approx(found, rel=1e-9)
    assert frechet_distance(first, first).value == pytest.approx(0, abs=1e-12 * scale)
    assert frechet_distance(first.astype(np.float32), second).value == pytest.approx(found, rel=1e-4, abs=1e-4)


def test_closed_forms():
    """One dimension: (m1 - m2)^2 + (s1 - s2)^2. Axes of their own: the sum of that over axes."""
    signs = np.array([[1.0], [-1.0]])
    unit = 2**-0.5  # of +1 and -1 the unbiased variance is 2
    assert frechet_distance(3 * unit * signs, 5 + 7 * unit * signs).value == pytest.approx(5**2 + (7 - 3) ** 2)
    axes = np.concatenate([np.eye(3), -np.eye(3)]) * (5 / 2) ** 0.5  # variance 1 along each axis, none across
    first, second = axes * [1, 2, 3], axes * [4, 4, 4] + [0, 1, 2]
    assert frechet_distance(first, second).value == pytest.approx(1 + 4 + (3**2 + 2**2 + 1))
    assert frechet_distance(first, second[:5]).linear is None  # these are no pairs


@pytest.mark.parametrize(("count", "width", "noise"), [(300, 6, 0.7), (200, 60, 0.3), (40, 60, 0.3)])
def test_the_spread_of_its_linear_values_is_that_of_many_draws(count, width, noise):
    """Too wide is allowed where dimensions are many, too narrow is not."""
    drawn = [frechet_distance(*pairs(count, width, seed, noise)) for seed in range(200)]
    assert all(one.linear.mean() == pytest.approx(one.value, rel=1e-9) for one in drawn)
    said = np.mean([one.linear.std(ddof=1) / count**0.5 for one in drawn])
    seen = np.std([one.value for one in drawn], ddof=1)
    assert 0.85 * seen < said < (1.2 if count > 20 * width else 1.7) * seen


def test_a_resample_is_farther_apart_than_its_sample():
    """Why intervals are not resampled: all of the resamples lie on one side of the value."""
    first, second = pairs(200, 60, noise=0.3)
    rows = [np.random.default_rng(seed).integers(0, 200, 200) for seed in range(20)]
    value = frechet_distance(first, second).value
    assert all(frechet_distance(first[row], second[row]).value > value for row in rows)
