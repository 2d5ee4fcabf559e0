"""What a drill says of jobs that do not come through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.proof.drilling import Drill

STEPS = 100


class Job:
    """A batch system that does what the test says."""

    def __init__(self, run: Path, on_signal: Callable[[Journal], None], on_kill: Callable[[Journal], None]) -> None:
        self.journal, self.over = Journal(run / JOURNAL), False
        self.on_signal, self.on_kill = on_signal, on_kill
        self.journal.write("start", 0)
        self.train(0, 25)

    def train(self, first: int, last: int) -> None:
        for step in range(first + 1, last + 1):
            self.journal.write("step", step)
        self.journal.sync()

    def state(self) -> str:
        return "FAILED" if self.over else "RUNNING"

    def is_over(self) -> bool:
        return self.over

    def signal(self) -> None:
        self.on_signal(self.journal)

    def kill_rank(self, rank: int) -> None:
        self.on_kill(self.journal)

    def cancel(self) -> None:
        self.over = True


def nothing(journal: Journal) -> None:
    return


def stops(journal: Journal) -> None:
    journal.write("checkpoint", 25)
    journal.write("stop", 25, reason="SIGUSR1")


def stops_and_comes_back(journal: Journal) -> None:
    stops(journal)
    journal.write("start", 25)
    for step in range(26, 60):
        journal.write("step", step)
    journal.sync()


def stops_and_begins_anew(journal: Journal) -> None:
    stops(journal)
    journal.write("start", 0)
    for step in range(1, 60):
        journal.write("step", step)
    journal.sync()


@pytest.mark.parametrize(
    ("on_signal", "failed", "mend"),
    [
        (nothing, "SIGUSR1 makes all ranks save", "start it by srun"),
        (stops, "goes back into the queue", "#SBATCH --requeue"),
        (stops_and_begins_anew, "goes on at the same step", "one disk that all nodes see"),
        (stops_and_comes_back, "a killed rank brings the job back", "submit the same command again"),
    ],
)
def test_the_first_check_that_fails_is_the_last_and_says_what_to_mend(
    tmp_path: Path, on_signal: Callable[[Journal], None], failed: str, mend: str
) -> None:
    job = Job(tmp_path, on_signal, nothing)
    drill = Drill(job, tmp_path, STEPS, patience_s=0.5)
    assert not drill.carry_out(rank=1)
    assert [check.name for check in drill.checks if not check.passed] == [failed]
    assert drill.checks[-1].name == failed
    assert mend in drill.checks[-1].mend
    assert all(check.mend == "" for check in drill.checks[:-1])


def test_a_job_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    job = Job(tmp_path, nothing, nothing)
    job.over = True
    drill = Drill(job, tmp_path, STEPS, patience_s=1e6)
    assert not drill.carry_out(rank=0)
    assert "job FAILED" in drill.checks[-1].seen
