"""Warm-up and cosine by step."""

from __future__ import annotations

import math

import pytest

from seed_dist.config import TrainConfig
from seed_dist.train.schedule import learning_rate

TRAINING = TrainConfig(steps=110, global_batch=1, lr=1.0, min_lr=0.1, warmup_start_lr=0.2, warmup_steps=10)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.28), (4, 0.6), (9, 1.0), (10, 1.0), (60, 0.55), (110, 0.1), (999, 0.1)]
)
def test_the_rate_at_marked_steps(step: int, expected: float) -> None:
    assert learning_rate(TRAINING, step) == pytest.approx(expected)


def test_it_rises_then_falls_and_every_update_moves() -> None:
    training = TrainConfig(steps=50, global_batch=1, lr=2e-3, warmup_steps=7)
    rates = [learning_rate(training, step) for step in range(50)]
    assert rates[:7] == sorted(rates[:7])
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert max(rates) == 2e-3
    assert min(rates) > 0


def test_without_warm_up_it_starts_at_the_peak() -> None:
    training = TrainConfig(steps=4, global_batch=1, lr=1.0)
    expected = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [learning_rate(training, step) for step in range(4)] == pytest.approx(expected)
