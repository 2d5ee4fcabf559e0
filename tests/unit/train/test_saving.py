"""What the loop does about saves that are slow or fail, on two ranks and files: what the journal says, what lies on the
disk, and how the run ends.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seed_dist.dist.checkpoint import list_checkpoints
from seed_dist.dist.comm import Comm
from seed_dist.dist.preempt import StopRequest
from seed_dist.errors import CheckpointError
from seed_dist.obs.journal import JOURNAL, Journal, read_journal
from seed_dist.train import saving
from seed_dist.train.saving import save, settle
from seed_dist.train.state import TrainState
from seed_dist.watch.heartbeat import Heartbeat
from tests.forked import values, world

pytestmark = pytest.mark.multirank


def steps_and_saves(comm: Comm, folder: Path, due: dict[int, bool], patience_s: float) -> dict[str, Any]:
    """Six steps with a boundary after each, as in the loop; after those in `due` a save, the last chance where True."""
    from seed_dist.dist.checkpoint_saver import Flags
    from tests.toy_engine import toy_engine, toy_saver, toy_steps

    saving._PATIENCE_S = saving.LAST_PATIENCE_S = patience_s
    engine = toy_engine(comm)
    journal = Journal(folder / JOURNAL if comm.rank == 0 else None)
    saver = toy_saver(folder / "c", engine)
    run: Any = SimpleNamespace(
        saver=saver,
        journal=journal,
        state=TrainState(),
        stop=StopRequest(),
        heartbeat=Heartbeat(folder / f"beat-{comm.rank}"),
    )
    error, began_s = "", time.monotonic()
    try:
        for step in range(1, 7):
            toy_steps(engine, step - 1, step)
            run.state.advance(True, 8)
            settle(run, Flags(*comm.any(run.saver.flags())))
            if step in due:
                save(run, is_last_chance=due[step])
    except CheckpointError as caught:
        error = str(caught)
    seconds = time.monotonic() - began_s
    run.saver.leave(10.0)
    journal.close()
    return {"error": error, "seconds": seconds, "busy": run.saver.is_busy}


def told(folder: Path) -> list[tuple[str, int]]:
    return [(record["event"], record["step"]) for record in read_journal(folder / JOURNAL)]


def on_disk(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder / "c")]


def test_a_save_that_comes_due_early_waits_for_the_one_before(tmp_path: Path) -> None:
    """Three seconds for the first; so each step that should be saved is."""
    due = {1: False, 2: False, 6: True}
    answers = values(world(steps_and_saves, 2, tmp_path, tmp_path, due, 20.0, fault="checkpoint.in_file:1:1:slow"))
    assert all(answer["error"] == "" and not answer["busy"] for answer in answers)
    assert told(tmp_path) == [("checkpoint", 1), ("checkpoint_waited", 2), ("checkpoint", 2), ("checkpoint", 6)]
    assert on_disk(tmp_path) == ["step_00000002", "step_00000006"]
    first, waited, *_ = read_journal(tmp_path / JOURNAL)
    assert first["written_s"] >= 3.0 > first["blocked_s"]
    assert first["size_bytes"] > 2000
    assert 1.0 < waited["waited_s"] < 10.0


def test_a_disk_that_hangs_costs_the_save_and_not_the_training(tmp_path: Path) -> None:
    due = {1: False, 2: False, 3: False}
    answers = values(world(steps_and_saves, 2, tmp_path, tmp_path, due, 0.3, fault="checkpoint.in_file:1:1:slow"))
    for answer in answers:
        assert answer["error"] == ""
        assert answer["busy"]
        assert answer["seconds"] < 3.0
    assert told(tmp_path) == [("checkpoint_left_out", 2), ("checkpoint_left_out", 3)]


@pytest.mark.parametrize(
    ("fault", "due", "message", "events"),
    [
        (
            "checkpoint.file_written:1:6:full", {2: False, 6: True},
            "could not be written: rank 1: [Errno 28] No space left",
            [("checkpoint", 2), ("checkpoint_failed", 6), ("checkpoint_failed", 6)],
        ),
        (
            "checkpoint.in_file:1:6:slow", {2: False, 6: True}, "step 6 is still being written after 1 s",
            [("checkpoint", 2)],
        ),
        (
            "checkpoint.in_file:1:2:slow", {2: False, 6: True}, "after step 6 is not saved: an earlier checkpoint",
            [("checkpoint_left_out", 6)],
        ),
    ],
    ids=["full disk", "disk that hangs", "disk that hung before"],
)  # fmt: skip
def test_the_last_save_must_succeed_in_time(
    fault: str, due: dict[int, bool], message: str, events: list[tuple[str, int]], tmp_path: Path
) -> None:
    """All ranks end with the error; an unfinished one is not there."""
    answers = values(world(steps_and_saves, 2, tmp_path, tmp_path, due, 1.0, fault=fault))
    assert all(message in answer["error"] for answer in answers), answers
    assert answers[0]["error"] == answers[1]["error"]
    assert told(tmp_path) == events
    assert on_disk(tmp_path) == [f"step_{step:08d}" for event, step in events if event == "checkpoint"]
