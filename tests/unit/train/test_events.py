"""What happens when steps are skipped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seed_dist.config import TrainConfig
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import TrainingError
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
        saver=SimpleNamespace(wait=lambda timeout_s: [], is_busy=False),
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
