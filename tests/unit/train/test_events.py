"""What happens when a step is skipped or a disk refuses a save."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seed_dist.config import TrainConfig
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import CheckpointError, TrainingError
from seed_dist.obs.journal import JOURNAL, Journal, read_journal
from seed_dist.train import events
from seed_dist.train.state import TrainState

BAD, GOOD = {"loss": torch.tensor(float("nan"))}, {"loss": torch.tensor(1.0)}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """The parts of a run that these functions look at."""
    return SimpleNamespace(
        engine=SimpleNamespace(comm=LocalComm()),
        training=TrainConfig(steps=50, global_batch=4, max_skipped_in_a_row=3, checkpoint_every=10),
        state=TrainState(),
        journal=Journal(tmp_path / JOURNAL),
        checkpoints=tmp_path / "checkpoints",
    )


def test_skipped_steps_are_told_and_too_many_in_a_row_end_the_run(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for outputs in ([GOOD, BAD], [GOOD]):
        run.state.advance(False, 4)
        events.count_skip(run, outputs)
    run.state.advance(False, 4)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*data of steps 1 to 3"):
        events.count_skip(run, [BAD])
    run.journal.close()
    records = read_journal(tmp_path / JOURNAL)
    assert [(record["step"], record["in_a_row"], record["ranks_with_bad_loss"]) for record in records] == [
        (1, 1, [0]),
        (2, 2, []),
        (3, 3, [0]),
    ]


def test_a_save_that_fails_is_tried_again_later_unless_it_was_the_last_chance(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise CheckpointError("rank 1: no space left")

    monkeypatch.setattr(events, "save_checkpoint", refuse)
    events.save(run, is_last_chance=False)
    with pytest.raises(CheckpointError, match="no space left"):
        events.save(run, is_last_chance=True)
    run.journal.close()
    assert [record["event"] for record in read_journal(tmp_path / JOURNAL)] == ["checkpoint_failed"] * 2


def test_the_journal_is_on_the_disk_before_the_checkpoint(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill behind the checkpoint and before the next line would lose steps that nobody does again."""
    run.journal.sync()
    run.journal.write("step", 1, loss=2.0)
    seen = []

    def look(*_: object) -> Path:
        seen.extend(record["step"] for record in read_journal(tmp_path / JOURNAL) if record["event"] == "step")
        return tmp_path / "step_00000001"

    monkeypatch.setattr(events, "save_checkpoint", look)
    events.save(run, is_last_chance=False)
    assert seen == [1]
