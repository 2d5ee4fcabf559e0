"""Network, intervals and step times by hand."""

from __future__ import annotations

import json

import pytest

from seed_dist.dist.ds_config import DS_CONFIGS
from seed_dist.plan import network
from seed_dist.plan.intervals import daly, lost_share, requeues, young
from seed_dist.plan.memory import states
from seed_dist.plan.step_time import StepTime, step_time


def test_zero2_moves_three_times_the_weights_as_configured_here() -> None:
    """185.6 M in fp16 over 8: 2 P (n-1)/n are 650 MB, 3 P (n-1)/n 974 MB, 52 and 78 ms on 100 Gbit/s."""
    configured = {
        path.stem: network.gradient_factor(json.loads(path.read_text())["zero_optimization"])
        for path in DS_CONFIGS.glob("zero2_*.json")
    }
    assert configured
    assert set(configured.values()) == {2}
    scattered = network.gradient_factor({"reduce_scatter": True, "use_multi_rank_bucket_allreduce": False})
    seconds = [network.zero2(2 * 185_600_000, 8, 8, 1, factor).seconds(12.5e9, 150e9) for factor in (scattered, 2)]
    assert [round(1000 * value) for value in seconds] == [52, 78]
    assert network.zero2(1000, 1, 1, 1, 2) == network.Traffic(0, 0)
    assert network.zero2(1000, 2, 1, 4, 2) == network.Traffic(9 * 500, 0)


def test_the_best_interval_loses_least() -> None:
    """C = 30 s, M = 24 h: Young gives sqrt(2 * 30 * 86400) = 2277 s; the exact optimum of the first-order loss."""
    assert young(30, 86400) == pytest.approx(2276.84, abs=0.01)
    losses = [lost_share(seconds, 30, 86400) for seconds in (young(30, 86400) * f for f in (0.5, 0.9, 1, 1.1, 2))]
    assert min(losses) == losses[2]
    assert daly(100, 40) == 40


def test_the_higher_order_is_dalys() -> None:
    """The captions of his figures 3 to 5: 5 minutes to save, a failure every 24 h, 6 h and 15 min."""
    minutes = [daly(300, hours * 3600) / 60 for hours in (24, 6, 0.25)]
    assert [round(minutes[0]), round(minutes[1]), round(minutes[2], 1)] == [117, 57, 9.1]


def test_requeues() -> None:
    assert [requeues(hours, 24) for hours in (1, 23.9, 23.95, 48, 240)] == [0, 0, 1, 2, 10]


def test_a_step_waits_for_the_slowest() -> None:
    step = step_time(100, 10, (0.5, 1.0), network_s=15, read_s=12)
    assert step.compute_s == (10, 20)
    assert step.seconds == (15, 35)
    assert step.limited_by == ("network", "compute")
    assert step_time(100, 10, (0.5, 1.0), 0, 50).seconds == (50, 50)
    assert StepTime((1, 5), network_s=5, read_s=6).seconds == (6, 10)
    assert StepTime((1, 5), network_s=5, read_s=6).limited_by == ("storage", "compute")


def test_memory_falls_with_ranks() -> None:
    zero = {"reduce_bucket_size": 50, "overlap_comm": True}
    held = [states(10_000, 500, ranks, 2, zero) for ranks in (1, 2, 8, 64)]
    assert held[0] == {"weights": 20_000, "frozen": 1000, "gradients": 60_000, "buckets": 200, "optimizer": 120_000}
    totals = [sum(part.values()) for part in held]
    assert totals == sorted(totals, reverse=True)
    assert [part["optimizer"] for part in held][:3] == [120_000, 60_000, 15_000]
