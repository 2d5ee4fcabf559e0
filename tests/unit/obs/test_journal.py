"""The journal survives crashes and restarts, and readers see each step once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from seed_dist.obs.journal import JOURNAL, Journal, read_journal


def test_records_come_back_in_order_with_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.write("start", 0, world_size=2)
    journal.write("step", 1, loss=float("nan"), lr=1 / 3, name="x")
    journal.close()
    records = read_journal(path)
    assert [record["event"] for record in records] == ["start", "step"]
    assert records[1] | {"time_s": 0} == {
        "event": "step",
        "step": 1,
        "time_s": 0,
        "loss": None,
        "lr": 0.333333333,
        "name": "x",
    }
    assert records[0]["time_s"] > 1.6e9
    assert records[0]["time_s"] != int(records[0]["time_s"])  # not rounded to fp32's digits


def test_a_later_attempt_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for start, steps, loss in ((0, 5, 1.0), (3, 6, 2.0)):
        journal = Journal(path)
        journal.write("start", start)
        for step in range(start + 1, steps + 1):
            journal.write("step", step, loss=loss)
        journal.close()
    steps = [(record["step"], record["loss"]) for record in read_journal(path) if record["event"] == "step"]
    assert steps == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    assert len(path.read_text().splitlines()) == 5 + 3 + 2  # nothing was ever taken out of the file


def test_a_line_torn_by_a_crash_is_passed_over_and_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "step", "step": 1}\n{"event": "st')
    journal = Journal(path)
    journal.write("step", 2)
    journal.close()
    assert [record["step"] for record in read_journal(path)] == [1, 2]


def test_other_ranks_write_nothing_and_an_absent_file_is_empty(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.write("step", 1, loss=1.0)
    journal.close()
    assert read_journal(tmp_path / "journal.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_steps_are_flushed_at_most_about_once_a_second_and_other_events_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(1, 501):
        journal.write("step", step, loss=1.0)
    assert len(flushed) <= 3
    before = len(flushed)
    journal.write("checkpoint", 500)
    assert len(flushed) == before + 1
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "checkpoint"


def test_a_full_disk_costs_no_line_and_does_not_stop_anybody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / JOURNAL)
    journal.write("start", 0)
    assert journal._file is not None
    descriptor = journal._file.fileno()
    disk, full = os.dup(descriptor), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    journal.write("checkpoint", 1)
    journal.write("checkpoint", 2)
    with pytest.raises(OSError, match="No space left"):
        journal.close()
    os.dup2(disk, descriptor)
    journal.write("checkpoint", 3)
    assert [record["step"] for record in read_journal(tmp_path / JOURNAL)] == [0, 1, 2, 3]
    journal.close()
    assert caplog.text.count("kept in memory") == 1
    for number in (disk, full):
        os.close(number)


def test_times_never_go_back_whatever_the_clock_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    wall_s, real = [2e9], time.time
    monkeypatch.setattr(time, "time", lambda: wall_s[0])
    for set_to_s in (2e9, 1.9e9, 2.1e9):  # set back, also between two attempts, and forward
        journal = Journal(path)
        journal.write("start", 0)
        wall_s[0] = set_to_s - 5e7
        journal.write("step", 1, loss=1.0)
        journal.close()
        wall_s[0] = set_to_s
    times = [json.loads(line)["time_s"] for line in path.read_text().splitlines()]
    assert times == sorted(times)
    assert times[0] == pytest.approx(2e9, abs=1)
    assert times[3] - times[0] < 60  # a clock that was set inside an attempt is not followed
    assert real() > 1.6e9
