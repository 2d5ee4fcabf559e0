"""Distances between codes against brute force in float64, in whatever blocks, and the ages of unused codes."""

from __future__ import annotations

import pytest
import torch

from seed_dist.models import code_spacing
from seed_dist.models.code_spacing import nearest_other, spacing_of
from seed_dist.models.code_usage import CodeUsage


@pytest.mark.parametrize("scores", [1, 700, 1 << 22])
def test_distances_are_right_also_between_codes_that_lie_close_and_far_from_the_origin(
    monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    monkeypatch.setattr(code_spacing, "_SCORES", scores)
    codes = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) + 500
    codes[7] = codes[250] + 2e-3
    codes[9] = codes[10]
    table = torch.cdist(codes.double(), codes.double()) + torch.eye(300, dtype=torch.float64) * 1e9
    assert torch.allclose(nearest_other(codes).double(), table.amin(1), rtol=1e-4, atol=1e-6)
    found = spacing_of(codes)
    assert found.near_duplicates == 4
    assert found.median == pytest.approx(float(table.amin(1).median()), rel=1e-2)
    assert found.p5 < found.median < found.p95


def test_ages_count_batches_since_a_code_was_used() -> None:
    usage = CodeUsage(10, window_steps=3)
    for codes in ([0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1], [0]):
        usage.record(torch.tensor(codes), lambda counts: counts)
    assert usage.idle.tolist() == [0, 1, 2, 2, 3, 4, 4, 4, 4, 4]
    ages = usage.ages(dead_after=4)
    assert (ages.median, ages.oldest, ages.dead) == (3.5, 4, 5)
    assert ages.p90 == 4
