"""Who is named, and who is not."""

from __future__ import annotations

import random

from seed_dist.doctor.outliers import exclude_option, odd_ones


def test_the_slow_one_is_named_among_two_and_among_many() -> None:
    two = odd_ones(["a", "b"], {"matmul_flops": [1e12, 0.5e12]})
    assert [(one.rank, one.host) for one in two] == [(1, "b")]
    draw = random.Random(0)
    speeds: list[float | None] = [draw.gauss(100e12, 2e12) for _ in range(64)]
    hosts = [f"n{rank // 8}" for rank in range(64)]
    assert odd_ones(hosts, {"matmul_flops": speeds}) == []
    speeds[13], speeds[40] = 60e12, 160e12  # one is slow, one is fast, which harms nobody
    assert [one.rank for one in odd_ones(hosts, {"matmul_flops": speeds})] == [13]
    assert exclude_option(odd_ones(hosts, {"matmul_flops": speeds})) == "--exclude=n1"
    assert exclude_option([]) == ""


def test_a_wide_spread_names_nobody() -> None:
    assert odd_ones(list("abcdef"), {"disk_bytes_s": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}) == []


def test_clocks_may_be_off_in_both_directions() -> None:
    found = odd_ones(["a", "b", "c"], {"clock_s": [1000.0, 1000.1, 990.0]})
    assert [(one.rank, one.what) for one in found] == [(2, "its clock is -10.0 s from the others'")]


def test_one_rank_has_nobody_to_be_compared_with() -> None:
    assert odd_ones(["a"], {"matmul_flops": [1.0], "pair_bytes_s": [None]}) == []
