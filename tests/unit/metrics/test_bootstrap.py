"""Intervals against formulas, and the pairing of two models' draws."""

import numpy as np
import pytest

from seed_dist.metrics.bootstrap import draws, interval, resampled_by, resampled_means


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    (means,) = resampled_means([values], 2000, 0)
    low, high = interval(means)
    error = values.std() / 4000**0.5
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


def test_both_ways_meet_the_same_draws_whatever_the_blocks(monkeypatch):
    values = [np.random.default_rng(seed).random(37) for seed in range(3)]
    found = resampled_means(values, 50, 7)
    for own, means in zip(values, found, strict=True):
        np.testing.assert_allclose(resampled_by(lambda drawn, own=own: own[drawn].mean(), 37, 50, 7), means)
    whole = np.concatenate(list(draws(37, 50, 7)))
    monkeypatch.setattr("seed_dist.metrics.bootstrap._BLOCK", 100)
    assert (np.concatenate(list(draws(37, 50, 7))) == whole).all()
    assert (np.concatenate(list(draws(37, 50, 8))) != whole).any()


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = 0
    for trial in range(300):
        (means,) = resampled_means([(generator.random(200) < 0.3).astype(float)], 400, trial)
        low, high = interval(means)
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.98
