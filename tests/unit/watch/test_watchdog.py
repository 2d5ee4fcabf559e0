"""The watchdog process beside real processes that only beat: what it notices, whom it ends, what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seed_dist.watch.attempts import begin_attempt, read_attempt
from seed_dist.watch.causes import find_cause
from seed_dist.watch.notes import read_deaths
from seed_dist.watch.stacks import state_of

# One process of a node: RANK, its node's first rank and size, the attempt and what to do after some beats.
RANK = """
import ctypes, os, sys, time
from pathlib import Path
from seed_dist.faults import _act
from seed_dist.watch.start import Member, memory_folder, start_watchdog, watched
rank, first, size, attempt, action, limit_s = (int(w) if w.isdecimal() else w for w in sys.argv[1:7])
attempt = Path(attempt)
host = f"node{first}"
memory = memory_folder(attempt, sys.argv[7] + host)
with watched(attempt, memory, Member(rank, os.getpid(), host, "")) as heartbeat:
    (attempt.parent / f"pid_{rank}").write_text(str(os.getpid()))
    paths = [attempt.parent / f"pid_{number}" for number in range(first, first + size)]
    while not all(path.exists() and path.read_text() for path in paths):
        time.sleep(0.01)
    if rank == first:
        members = [Member(first + i, int(path.read_text()), host, "") for i, path in enumerate(paths)]
        start_watchdog(attempt, memory, members, {"forward": float(limit_s)})
    for step in range(20 if action == "end" else 1000):
        heartbeat.beat("forward", step)
        if step == 10 and action not in ("live", "end"):
            _act(action, "here")
        time.sleep(0.05)
"""


class Node:
    """Ranks first..first+n-1 of a node, each with its action."""

    def __init__(
        self, attempt: Path, first: int, actions: tuple[str, ...], limit_s: int, wrap: Callable[[str], list[str]]
    ):
        token = f"test{os.getpid()}"
        self.memory = Path("/dev/shm") / f"seed_dist-{token}node{first}-{attempt.name}"
        self.processes = [
            subprocess.Popen(
                [*wrap(action), sys.executable, "-c", RANK, str(first + i), str(first), str(len(actions)), str(attempt),
                 action, str(limit_s), token],
                stderr=subprocess.DEVNULL,
            )
            for i, action in enumerate(actions)
        ]  # fmt: skip

    def wait(self) -> list[int]:
        return [process.wait(timeout=60) for process in self.processes]

    def watchdog_is_gone(self) -> bool:
        deadline = time.monotonic() + 20
        while self.memory.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.memory.exists()


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    return begin_attempt(tmp_path / "run", ["node0", "node0"])


@pytest.fixture
def start(attempt: Path) -> Iterator[Callable[..., Node]]:
    nodes = []

    def started(*actions: str, first: int = 0, limit_s: int = 60, wrap: Any = lambda action: []) -> Node:
        nodes.append(Node(attempt, first, actions, limit_s, wrap))
        return nodes[-1]

    yield started
    for process in (process for node in nodes for process in node.processes):
        process.kill()
        process.wait()


@pytest.fixture
def run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()


pytestmark = [pytest.mark.usefixtures("run"), pytest.mark.slow]


def test_it_leaves_with_ranks_that_are_done(start: Callable[..., Node], attempt: Path) -> None:
    node = start("end", "end")
    assert node.wait() == [0, 0]
    assert node.watchdog_is_gone()
    assert [path.name for path in attempt.iterdir()] == ["start.json"]


@pytest.mark.parametrize(
    ("action", "kind", "code"), [("kill", "killed", -9), ("exit0", "left", 0), ("abort", "crash", -6)]
)
def test_a_death_ends_the_others(start: Callable[..., Node], attempt: Path, action: str, kind: str, code: int) -> None:
    node = start("live", action)
    while state_of(node.processes[1].pid) != "Z":  # not reaped: like most launchers, which look now and then
        time.sleep(0.01)
    died_s = time.monotonic()
    assert node.processes[0].wait(timeout=60) == -signal.SIGKILL  # which has no error of its own to die of
    assert time.monotonic() - died_s <= 5.0
    assert node.processes[1].wait() == code
    assert node.watchdog_is_gone()
    (note,) = read_deaths(attempt)
    assert (note.why, note.suspect, note.killed, note.ranks[1].phase, note.ranks[1].step) == (
        "died",
        1,
        (0,),
        "forward",
        10,
    )
    assert note.ranks[1].died_s is not None
    assert note.ranks[1].died_s - note.time_s < 1.0
    cause = find_cause(attempt)
    assert (cause.kind, cause.rank) == (kind, 1)
    assert read_attempt(attempt).outcome == "died"
    assert "<module>" in (attempt / "rank_00000.stack").read_text()


@pytest.mark.parametrize("action", ["stop", "hang"])
def test_a_hang_is_noticed_in_time_even_under_the_interpreters_lock(
    start: Callable[..., Node], attempt: Path, action: str
) -> None:
    node = start(action, "live", limit_s=1)
    assert node.wait() == [-9, -9]
    (note,) = read_deaths(attempt)
    assert (note.why, note.suspect, note.ranks[0].is_stopped) == ("hung", 0, action == "stop")
    assert 1 <= note.ranks[0].age_s <= 1 + 5


def test_a_stop_that_ends_in_time_is_forgiven(start: Callable[..., Node], attempt: Path) -> None:
    node = start("end", "end", limit_s=5)
    while not (attempt.parent / "pid_1").exists() or state_of(node.processes[0].pid) is None:
        time.sleep(0.05)
    os.kill(node.processes[0].pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(node.processes[0].pid, signal.SIGCONT)
    assert node.wait() == [0, 0]
    assert node.watchdog_is_gone()
    assert not read_deaths(attempt)


def test_other_nodes_learn_of_a_death_from_the_shared_disk(start: Callable[..., Node], attempt: Path) -> None:
    far, near = start("live", "live", first=2), start("live", "kill", first=0)
    began_s = time.monotonic()
    assert (near.wait(), far.wait()) == ([-9, -9], [-9, -9])
    assert time.monotonic() - began_s < 30
    assert near.watchdog_is_gone()
    assert far.watchdog_is_gone()
    notes = {note.host: note for note in read_deaths(attempt)}
    assert (notes["node0"].why, notes["node2"].why, notes["node2"].killed) == ("died", "told", (2, 3))
    assert (find_cause(attempt).rank, find_cause(attempt).secondary) == (1, (0, 2, 3))


def test_a_rank_that_the_kernel_kills_for_memory_is_out_of_memory(start: Callable[..., Node], attempt: Path) -> None:
    group = Path("/sys/fs/cgroup/memory") / f"seed_dist_test_{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
    except OSError:
        pytest.skip("no memory cgroup of version 1 can be made here")

    def wrap(action: str) -> list[str]:
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"] if action == "memory" else []

    try:
        node = start("live", "memory", wrap=wrap)
        assert node.wait() == [-9, -9]
        assert node.watchdog_is_gone()
    finally:
        group.rmdir()
    cause = find_cause(attempt)
    assert (cause.kind, cause.rank) == ("oom", 1)
