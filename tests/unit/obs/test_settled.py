"""What of a journal is final, whenever it is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from seed_dist.obs.journal import read_journal
from seed_dist.obs.settled import SettledJournal, in_batches, points

Event = dict[str, Any]


def _write(path: Path, events: list[Event]) -> None:
    with path.open("a") as file:
        for number, event in enumerate(events):
            file.write(json.dumps({"time_s": number, "loss": float(number), **event}) + "\n")


def _steps(journal: SettledJournal) -> list[int]:
    journal.read()
    return [record["step"] for record in journal.settled]


def _event(event: str, step: int) -> Event:
    return {"event": event, "step": step}


def test_steps_wait_for_a_checkpoint_and_those_of_a_lost_attempt_never_come(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = SettledJournal(path)
    _write(path, [_event("start", 0), _event("validation", 0), _event("step", 1), _event("step", 2)])
    assert _steps(journal) == []
    _write(path, [_event("step", 3), _event("checkpoint", 2)])  # written in the background, told a step later
    assert _steps(journal) == [0, 1, 2]
    _write(path, [_event("start", 2), _event("step", 3), _event("step", 4), _event("finished", 4)])
    assert _steps(journal) == [0, 1, 2, 3, 4]
    assert (journal.generation, len(journal.attempts), journal.is_finished) == (0, 2, True)
    with path.open("a") as file:
        file.write('{"event": "st')  # being written
    assert _steps(journal) == [0, 1, 2, 3, 4]


def test_going_back_behind_what_was_final_begins_a_new_generation(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = SettledJournal(path)
    _write(path, [_event("start", 0), *(_event("step", step) for step in (1, 2, 3)), _event("checkpoint", 3)])
    before = journal.digest(0)
    assert (_steps(journal), journal.generation) == ([1, 2, 3], 0)
    _write(path, [_event("start", 1), _event("step", 2)])  # the newest checkpoint was damaged
    assert (_steps(journal), journal.generation) == ([1], 1)
    assert journal.digest(0) == before != journal.digest(1)


def test_an_attempt_from_scratch_validates_again_and_only_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for _ in range(2):
        _write(path, [_event("start", 0), _event("validation", 0), _event("step", 1)])
    _write(path, [_event("checkpoint", 1)])
    assert _steps(SettledJournal(path)) == [0, 1]
    assert sum(record["event"] == "validation" for record in read_journal(path)) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 4)), max_size=8), st.data())
def test_what_is_final_follows_from_the_bytes_alone(
    tmp_path_factory: Any, attempts: list[tuple[int, bool, int]], data: st.DataObject
) -> None:
    """Read at any moments or at once: the same; and it is what readers of the journal see, up to the newest save."""
    events, saved = [], 0
    for count, saves, back in attempts:
        start = max(0, saved - back)
        events.append(_event("start", start))
        events += [_event("step", step) for step in range(start + 1, start + count + 1)]
        saved = start
        if saves:
            saved = start + count
            events.append(_event("checkpoint", saved))
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    piecewise, position = SettledJournal(path), 0
    while position < len(events):
        size = data.draw(st.integers(1, 4))
        _write(path, events[position : position + size])
        position += size
        piecewise.read()
    at_once = SettledJournal(path)
    at_once.read()
    assert piecewise.settled == at_once.settled
    assert piecewise.generation == at_once.generation
    final = [record for record in read_journal(path) if record["event"] == "step" and record["step"] <= saved]
    assert at_once.settled == final


def test_steps_and_validations_become_points_and_other_events_none() -> None:
    record = {"event": "step", "step": 3, "time_s": 10.5, "loss": 2.0, "grad_norm": None, "name": "x", "flag": True}
    assert list(points(record)) == [("loss", 2.0, 10500, 3)]
    validation = {"event": "validation", "step": 4, "time_s": 11.0, "i2t_r1": 0.5}
    assert list(points(validation)) == [("validation/i2t_r1", 0.5, 11000, 4)]
    assert list(points({"event": "checkpoint", "step": 4, "time_s": 11.0, "seconds": 0.5})) == []


def test_batches_stay_below_what_mlflow_takes_at_once() -> None:
    record = {"event": "step", "step": 1, "time_s": 0.0} | {f"m{i}": float(i) for i in range(100)}
    batches = list(in_batches([record | {"step": step} for step in range(20)]))
    assert [len(batch) for batch in batches] == [9, 9, 2]
