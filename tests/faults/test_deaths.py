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
from tests.faults.forked import Ended, Ranks
from tests.features import tiny_workspace
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

    def start(self, fault: str = "", *more: str, setup: Any = None) -> Ranks:
        return Ranks([*self.arguments, *more], 2, self.work, fault, setup)


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


def _assert_named(disturbed: Workspace, ended: list[Ended], kind: str, rank: int) -> dict[str, Any]:
    cause = _cause(disturbed.run)
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
        other = json.loads((folder / "rank_00000.error.json").read_text())
        assert "Connection" in other["message"]  # kept, and marked as what it is
