"""What the launcher set up becomes a meeting point and a number of threads, or an error that says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from seed_dist.dist.launch import is_restart, limit_threads, open_comm
from seed_dist.errors import ConfigError
from seed_dist.topology import World
from tests.harness import ROOT


def test_several_ranks_without_an_address_are_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1234")
    with pytest.raises(ConfigError, match="MASTER_ADDR in the environment"), open_comm(World(0, 2, 0, 2), 5.0):
        pass


def test_the_cores_of_a_node_are_shared_unless_the_user_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert limit_threads(World(0, 2, 0, 2)) == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert limit_threads(World(0, 4, 0, 4)) == 2
        assert limit_threads(World(0, 32, 0, 16)) == 1
    finally:
        torch.set_num_threads(before)


def test_more_files_may_be_open_than_the_shell_allows() -> None:
    code = (
        "from seed_dist.dist.launch import allow_open_files\n"
        "limit = allow_open_files()\n"
        "print(limit, [open('pyproject.toml') for _ in range(90)][-1].fileno())"
    )
    command = ["bash", "-c", f'ulimit -Sn 64 && ulimit -Hn 120 && "{sys.executable}" -c "$1"', "bash", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    limit, last = map(int, run.stdout.split())
    assert limit == 120
    assert 90 <= last < 120


def test_a_requeued_or_restarted_attempt_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_restart()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not is_restart()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert is_restart()


def test_groups_that_a_library_makes_wait_as_long_as_the_world() -> None:
    """DeepSpeed clones the world; torch would give the copy half an hour."""
    with open_comm(World(), 7.0):
        backend = dist.new_group()._get_backend(torch.device("cpu"))
        assert backend.options._timeout == timedelta(seconds=7)
