"""What happens when a disk refuses a save."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seed_dist.config import TrainConfig
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import CheckpointError
from seed_dist.obs.journal import JOURNAL, Journal, read_journal
from seed_dist.train import events
from seed_dist.train.state import TrainState


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
