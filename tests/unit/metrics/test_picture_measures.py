"""Inception Score, precision and recall, and CLIP similarities against plain loops and torch-fidelity."""

import numpy as np
import pytest
import torch

import seed_dist.models  # noqa: F401 - its torchvision guard lets torch_fidelity load
from seed_dist.metrics import clip_score, manifold
from seed_dist.metrics.clip_score import mismatched, paired_cosines, published_clip_score
from seed_dist.metrics.inception_score import inception_score
from seed_dist.metrics.manifold import within

from torch_fidelity.metric_isc import isc_features_to_metric  # isort: skip

RNG = np.random.default_rng(0)


def test_the_inception_score_is_the_plain_one():
    logits = RNG.normal(size=(47, 13)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = [p[i * 47 // 10 : (i + 1) * 47 // 10] for i in range(10)]
    plain = [np.exp(np.mean([(q * np.log(q / part.mean(0))).sum() for q in part])) for part in parts]
    assert inception_score(logits) == pytest.approx(np.mean(plain), rel=1e-12)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    assert inception_score(logits) == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert inception_score(logits.astype(np.float32) + 1e4) == pytest.approx(np.mean(plain), rel=1e-2)
    assert inception_score(np.tile(np.eye(5) * 100, (10, 1))) == pytest.approx(5)  # sure, and of five kinds
    assert inception_score(np.ones((20, 5))) == pytest.approx(1)


def by_loop(samples, members, k):
    def distance(a, b):
        return ((a - b) ** 2).sum() ** 0.5

    radii = [sorted(distance(a, b) for j, b in enumerate(members) if j != i)[k - 1] for i, a in enumerate(members)]
    return [any(distance(x, m) <= r for m, r in zip(members, radii, strict=True)) for x in samples]


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 8 * 50 * 7])
def test_precision_and_recall_are_the_plain_ones(monkeypatch, block_bytes):
    monkeypatch.setattr(manifold, "_BLOCK_BYTES", block_bytes)
    real = RNG.normal(size=(50, 4)) + 1000  # far from the origin, where squares cancel
    painted = real[:40] * 0.7 + 300 + RNG.normal(size=(40, 4))
    for samples, members in ((painted, real), (real, painted)):
        found = within(samples, members)
        assert found.tolist() == by_loop(samples, members, 3)
        assert 0.1 < found.mean() < 1
    assert within(real, real).all()
    assert not within(real + 100, real).any()


def test_cosines(monkeypatch):
    first, second = RNG.normal(size=(9, 5)), RNG.normal(size=(9, 5))
    every = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in second] for a in first]
    found = paired_cosines(first.astype(np.float32), second)
    assert found == pytest.approx(np.diag(every), abs=1e-6)
    monkeypatch.setattr(clip_score, "_BLOCK", 4)
    assert mismatched(first, second) == pytest.approx((np.sum(every) - np.trace(every)) / 72)
    published = 2.5 * np.maximum(every, 0)
    wanted = (np.sum(published) - np.trace(published)) / 72
    assert mismatched(first, second, published_clip_score) == pytest.approx(wanted)
    assert published_clip_score(np.array([-0.5, 0.3])).tolist() == [0, 0.75]
    assert paired_cosines(np.zeros((1, 5)), second[:1]).tolist() == [0]
