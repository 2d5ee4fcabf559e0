"""Ranks that die or hang at named places: the others end in time, the first to fail is named, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seed_dist.obs.journal import read_journal
from seed_dist.watch.attempts import attempt_folders
from seed_dist.watch.stacks import state_of
from tests.features import tiny_workspace
from tests.forked import EndedTraining, Training
from tests.smoke.test_train_resume import _assert_same_end

pytestmark = [pytest.mark.multirank, pytest.mark.slow]
TIMEOUT_S = 6.0  # of a phase, where a rank is to hang in it


@dataclass
class Workspace:
    work: Path
    arguments: list[str]

    @property
    def run(self) -> Path:
        return self.work / "codebook"

    def start(self, fault: str = "", *more: str, setup: Any = None) -> Training:
        return Training([*self.arguments, *more], 2, self.work, fault, setup)


def _workspace(work: Path) -> Workspace:
    overrides = (*tiny_workspace(work), "codebook_training.checkpoint_every=1")
    shutil.rmtree(work / "codebook")
    settings = [word for item in overrides for word in ("--set", item)]
    return Workspace(
        work, ["--recipe", "glyphs", "--stage", "codebook", "--work", str(work), "--mlflow", "off", *settings]
    )


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace in which one attempt after the other dies."""
    return _workspace(tmp_path_factory.mktemp("disturbed"))


def _cause(run: Path, patience_s: float = 10.0) -> dict[str, Any]:
    """Of the last attempt; the watchdog writes it when the ranks are gone."""
    path = attempt_folders(run)[-1] / "cause.json"
    deadline = time.monotonic() + patience_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return json.loads(path.read_text())


def _assert_named(disturbed: Workspace, ended: list[EndedTraining], kind: str, rank: int) -> dict[str, Any]:
    cause = _cause(disturbed.run)
    if cause["kind"] == "gone" and kind in ("killed", "left"):  # the server's own question for the exit code came first
        cause["kind"] = kind
    shown = f"{cause}\n" + "\n".join(end.output[-3000:] for end in ended)
    assert (cause["kind"], cause["rank"]) == (kind, rank), shown
    assert max(end.after_s for end in ended) <= 5.0, shown
    assert ended[1 - rank].code != 0, shown
    return cause


@pytest.mark.parametrize(
    ("fault", "kind", "phase"),
    [
        ("train.forward:1:1:kill", "killed", "forward"),
        ("engine.reduce:0:1:kill", "killed", "backward"),
        ("engine.updated:0:0:kill", "killed", "step"),
        ("train.before_advance:1:*:kill", "killed", "step"),
        ("train.forward:1:3:segv", "crash", "forward"),
        ("train.before_step:0:3:abort", "crash", "backward"),
        ("train.before_step:1:3:exit0", "left", "backward"),
        ("train.forward:1:3:raise", "exception", "forward"),
    ],
)
def test_a_dead_rank_is_named_and_the_others_end_soon(disturbed: Workspace, fault: str, kind: str, phase: str) -> None:
    rank = int(fault.split(":")[1])
    ended = disturbed.start(fault).finish()
    cause = _assert_named(disturbed, ended, kind, rank)
    assert cause["phase"] == phase
    assert len(cause["samples"]) == 4
    assert cause["secondary"] == [1 - rank]
    folder = attempt_folders(disturbed.run)[-1]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    if kind == "crash":
        assert "Fatal Python error" in cause["evidence"]
    if kind == "exception":
        assert "InjectedFaultError" in cause["what"]
        assert "in forward" not in cause["evidence"].splitlines()[0]
        assert 'fault_point("train.forward"' in cause["evidence"]
        if ended[0].code != -signal.SIGKILL:  # the watchdog's patience may be over before it can say it
            other = json.loads((folder / "rank_00000.error.json").read_text())
            assert "Connection" in other["message"]  # kept, and marked as what it is


@pytest.mark.parametrize(("fault", "is_stopped"), [("train.forward:1:4:stop", True), ("train.forward:0:4:hang", False)])
def test_a_rank_that_hangs_is_named_with_the_stacks_of_all(disturbed: Workspace, fault: str, is_stopped: bool) -> None:
    """The collectives' own time-out is ten minutes: only the watchdog can have ended this."""
    rank = int(fault.split(":")[1])
    ranks = disturbed.start(fault, "--set", f"engine.phase_timeout_s.forward={TIMEOUT_S}")
    ended = ranks.finish()
    cause = _assert_named(disturbed, ended, "hang", rank)
    folder = attempt_folders(disturbed.run)[-1]
    note = json.loads(next(folder.glob("*.death.json")).read_text())
    (state,) = (state for state in note["ranks"] if state["rank"] == rank)
    assert TIMEOUT_S <= state["age_s"] <= TIMEOUT_S + 5
    assert (state["phase"], state["is_stopped"], note["killed"]) == ("forward", is_stopped, [rank])
    assert "loop.py" in (folder / f"rank_{1 - rank:05d}.stack").read_text()  # who waited tells where
    assert ("state T" in cause["evidence"]) == is_stopped
    assert ("_hang_with_lock" in cause["evidence"]) != is_stopped
    assert [state_of(ranks.pid(number)) for number in range(2)] == [None, None]


def test_ranks_that_wait_in_different_collectives_are_told(disturbed: Workspace) -> None:
    """Unless the next vote meets the wrong one, see `Comm.agree`, only their stacks and places tell."""
    limits = "{data: 6.0, forward: 6.0, backward: 6.0, step: 6.0, save: 6.0}"
    ended = disturbed.start("", "--set", f"engine.phase_timeout_s={limits}", setup=_leave_out_a_vote).finish()
    cause = _cause(disturbed.run)
    assert all(end.code for end in ended)
    assert cause["kind"] == "hang"
    assert "one has left out a collective" in cause["what"]


def _leave_out_a_vote() -> None:
    """Rank 1, what it tells the others after step 5."""
    from seed_dist.dist.checkpoint_saver import Flags
    from seed_dist.train import loop
    from seed_dist.train.boundary import Boundary, meet

    def meet_but_once(comm: Any, step: int, loss: float, stop: bool, saving: Flags) -> Boundary:
        if (comm.rank, step) == (1, 5):
            return Boundary(loss, stop, Flags(failed=False, unfinished=False))
        return meet(comm, step, loss, stop, saving)

    loop.meet = meet_but_once


def test_no_memory_is_told_from_other_ends(disturbed: Workspace) -> None:
    ended = disturbed.start("train.forward:1:4:memory", setup=_limit_memory).finish()
    cause = _assert_named(disturbed, ended, "oom", 1)
    assert "MemoryError" in cause["what"]


def _limit_memory() -> None:
    """Of rank 1 alone: two gigabytes beyond what it has now, of which starting takes its part."""
    if os.environ["RANK"] == "1":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 31), now + (1 << 31)))


def test_what_is_left_ends_like_an_undisturbed_run(disturbed: Workspace, tmp_path: Path) -> None:
    """After all those deaths; and in the end a rank is slow in every step, and stops for less than is allowed."""
    ranks = disturbed.start("train.forward:1:*:sleep,train.before_step:0:5:stop")
    deadline = time.monotonic() + 60
    while state_of(ranks.pid(0)) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(ranks.pid(0), signal.SIGCONT)
    ended = ranks.finish()
    assert [end.code for end in ended] == [0, 0], ended
    straight = _workspace(tmp_path / "straight")
    assert [end.code for end in straight.start().finish()] == [0, 0]
    _assert_same_end(straight.run, disturbed.run)
    assert not list(attempt_folders(straight.run)[-1].glob("cause*"))


def test_a_slow_rank_is_told(tmp_path: Path) -> None:
    workspace = _workspace(tmp_path)
    ended = workspace.start("train.forward:1:*:sleep").finish()
    assert [end.code for end in ended] == [0, 0], ended
    (record,) = (record for record in read_journal(workspace.run / "journal.jsonl") if record["event"] == "straggler")
    assert (record["rank"], record["step"]) == (1, 3)
    assert record["own_s_by_rank"][1] >= 0.5
    assert "rank 1 takes" in ended[0].output
