"""A job's own end: how much of its time is kept for saving, and what SLURM says of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from seed_dist.dist.deadline import MARGIN_S, UNKNOWN_SAVE_S, Deadline, job_deadline, parse_time_left
from seed_dist.dist.preempt import StopRequest


class Job:
    """A clock, and a batch system that knows when the job ends."""

    def __init__(self, limit_s: float | None) -> None:
        self.now_s, self.ends_s, self.asked = 1000.0, None if limit_s is None else 1000.0 + limit_s, 0

    def time_left(self) -> float | None:
        self.asked += 1
        return None if self.ends_s is None else self.ends_s - self.now_s

    def steps_until_stop(self, deadline: Deadline, step_s: float, limit: int = 100_000) -> int:
        stop = StopRequest(deadline)
        for number in range(1, limit):
            self.now_s += step_s
            if stop:
                assert stop.reason == "time limit"
                return number
        return limit


def test_the_last_save_is_begun_in_time_and_no_earlier() -> None:
    job = Job(3600.0)
    deadline = Deadline(job.time_left, lambda: job.now_s)
    deadline.save_took(40.0)
    deadline.save_took(10.0)
    job.steps_until_stop(deadline, 7.0)
    assert job.ends_s is not None
    left_s, reserve_s = job.ends_s - job.now_s, MARGIN_S + 7.0 + 2 * 40.0
    assert reserve_s - 7.0 < left_s <= reserve_s


def test_before_the_first_save_one_is_assumed_and_slow_steps_count() -> None:
    job = Job(36000.0)
    deadline = Deadline(job.time_left, lambda: job.now_s)
    job.steps_until_stop(deadline, 1.0, limit=10)
    assert deadline.reserve_s == MARGIN_S + 1.0 + 2 * UNKNOWN_SAVE_S
    job.steps_until_stop(deadline, 300.0, limit=3)
    assert deadline.reserve_s == MARGIN_S + 300.0 + 2 * UNKNOWN_SAVE_S


def test_a_short_job_keeps_two_thirds_of_its_time_for_work() -> None:
    job = Job(60.0)
    steps = job.steps_until_stop(Deadline(job.time_left, lambda: job.now_s), 1.0)
    assert steps == 40


def test_a_limit_that_was_raised_meanwhile_is_used() -> None:
    job = Job(3600.0)
    deadline = Deadline(job.time_left, lambda: job.now_s)
    assert job.ends_s is not None
    job.ends_s += 3600.0
    steps = job.steps_until_stop(deadline, 1.0)
    assert 7000 < steps < 7200
    assert job.asked < 5


def test_without_a_limit_nothing_is_asked_again() -> None:
    job = Job(None)
    assert job.steps_until_stop(Deadline(job.time_left, lambda: job.now_s), 60.0, limit=1000) == 1000
    assert job.asked == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:05", 5), ("12:34", 754), ("1:00:00", 3600), ("2-01:00:01", 176401), ("UNLIMITED", None), ("INVALID", None)],
)
def test_what_squeue_says(text: str, seconds: float | None) -> None:
    assert parse_time_left(text) == seconds


def test_slurm_is_asked_in_a_job_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_deadline() is None
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$*" = "--noheader --jobs 42 --format=%L" ] && echo 1:00:00\n')
    squeue.chmod(stat.S_IRWXU)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("PATH", str(tmp_path))
    deadline = job_deadline()
    assert deadline is not None
    assert deadline.reserve_s == MARGIN_S + 2 * UNKNOWN_SAVE_S
    assert not deadline.is_near()
    squeue.write_text("#!/bin/sh\nexit 1\n")
    silent = job_deadline()
    assert silent is not None
    assert not silent.is_near()
