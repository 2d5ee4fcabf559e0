"""The preflight itself on two gloo ranks: it measures, and names the rank that was made slow."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from seed_dist.dist.pairs import partners
from tests.harness import finish, start_module_ranks

pytestmark = pytest.mark.multirank


def test_the_planted_slow_rank_is_named_and_left_out(tmp_path: Path) -> None:
    fault = {"SEED_DIST_FAULT": "preflight.matmul:1:*:sleep"}
    arguments = ["--preflight", "--work", str(tmp_path / "work"), "--json"]
    (code, told), (other_code, _) = finish(start_module_ranks("seed_dist.doctor", arguments, 2, tmp_path, fault))
    assert code == other_code == 1, told
    report = json.loads(told[told.index("{") :])
    slow = [one for one in report["findings"] if one["state"] == "failed" and "matmul_flops" in one["text"]]
    assert [one["what"] for one in slow] == ["rank 1"]
    assert report["exclude"] == f"--exclude={socket.gethostname()}"
    assert all(rate > 0 for rate in report["ranks"]["pair_bytes_s"])
    assert report["all_reduce_bus_bytes_s"] > 0
    assert list((tmp_path / "work").iterdir()) == []  # the file that was read is gone


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 64])
def test_every_two_ranks_meet_once(size: int) -> None:
    rounds = [partners(size, rank) for rank in range(size)]
    for turn in range(len(rounds[0])):
        met = [rounds[rank][turn] for rank in range(size)]
        assert all(other is None or met[other] == rank for rank, other in enumerate(met))
    for rank in range(size):
        assert sorted(other for other in rounds[rank] if other is not None) == [r for r in range(size) if r != rank]
