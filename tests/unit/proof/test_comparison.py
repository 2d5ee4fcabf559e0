"""Where two runs part: the first difference is found, whatever it is, and what may differ is not one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.proof.comparison import compare_runs

STEPS = 4


def step_values(step: int) -> dict[str, Any]:
    return {"samples_digest": f"{step * 7919:016x}", "loss": 2.0 / step, "grad_norm": 1.0 / step, "step_s": step / 3}


def write_run(folder: Path, attempts: tuple[range, ...] = (range(1, STEPS + 1),)) -> Path:
    journal = Journal(folder / JOURNAL)
    for steps in attempts:
        journal.write("start", steps.start - 1, source=str(folder))
        for step in steps:
            journal.write("step", step, **step_values(step))
    journal.write("validation", STEPS, recall=0.5, seconds=len(attempts))
    journal.close()
    final = folder / "checkpoints" / f"step_{STEPS:08d}"
    final.mkdir(parents=True)
    tensors = {"master/a": torch.arange(6.0).reshape(2, 3), "exp_avg/a": torch.tensor([float("nan"), -0.0])}
    save_file(tensors, final / "rank_00000.safetensors")
    save_file({"seen": torch.tensor(3)}, final / "buffers.safetensors")
    (final / "state.json").write_text(json.dumps({"step": STEPS, "skipped": 0}))
    return folder


def rewrite(folder: Path, name: str, **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / "checkpoints" / f"step_{STEPS:08d}" / name)


def edit_journal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    records = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    for record in records:
        change(record)
    (folder / JOURNAL).write_text("".join(json.dumps(record) + "\n" for record in records if record))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """One straight run, and one that did steps 2 and 3 twice."""
    return write_run(tmp_path / "a"), write_run(tmp_path / "b", (range(1, 4), range(2, STEPS + 1)))


def test_a_resumed_run_that_did_the_same_is_equal(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs, STEPS, same_world=True)
    assert found.difference is None, str(found.difference)
    assert found.counts == {"step records": 6, "validation records": 1, "counters": 2, "tensors": 3, "numbers": 9}


def test_the_first_difference_is_told_samples_before_what_follows_from_them(runs: tuple[Path, Path]) -> None:
    def late(record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] >= 3:
            record |= {"samples_digest": "0" * 16, "loss": 9.0}

    edit_journal(runs[1], late)
    for same_world in (True, False):
        difference = compare_runs(*runs, STEPS, same_world).difference
        assert difference is not None
        expected = (3, "samples_digest", f"{3 * 7919:016x}", "0" * 16)
        assert (difference.step, difference.what, difference.straight, difference.resumed) == expected


def test_a_step_that_was_done_twice_must_have_been_the_same_both_times(runs: tuple[Path, Path]) -> None:
    seen: list[int] = []

    def first_life(record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] == 2 and not seen:
            seen.append(2)
            record["grad_norm"] += 1e-6

    edit_journal(runs[1], first_life)
    difference = compare_runs(*runs, STEPS, same_world=True).difference
    assert difference is not None
    assert (difference.step, difference.what) == (2, "grad_norm")
    assert compare_runs(*runs, STEPS, same_world=False).difference is None


@pytest.mark.parametrize(("factor", "equal"), [(1 + 5e-6, True), (1 + 5e-5, False)])
def test_at_another_world_size_losses_may_be_rounded_differently(
    runs: tuple[Path, Path], factor: float, equal: bool
) -> None:
    def rounded(record: dict[str, Any]) -> None:
        if "loss" in record:
            record["loss"] *= factor

    edit_journal(runs[1], rounded)
    assert (compare_runs(*runs, STEPS, same_world=False).difference is None) is equal
    assert compare_runs(*runs, STEPS, same_world=True).difference is not None


def test_every_tensor_counter_and_event_counts(runs: tuple[Path, Path]) -> None:
    straight, other = runs
    good = other.with_name("good")
    shutil.copytree(other, good)
    final = other / "checkpoints" / f"step_{STEPS:08d}"

    def difference() -> str:
        found = str(compare_runs(straight, other, STEPS, same_world=True).difference)
        shutil.rmtree(other)
        shutil.copytree(good, other)
        return found

    a, moments = torch.arange(6.0).reshape(2, 3), torch.tensor([float("nan"), -0.0])
    rewrite(other, "rank_00000.safetensors", **{"master/a": a + torch.eye(2, 3) * 1e-7, "exp_avg/a": moments})
    assert "master/a, number 0 (the first of 1 of 6)" in difference()
    rewrite(other, "rank_00000.safetensors", **{"master/a": a, "exp_avg/a": moments.abs()})
    assert "exp_avg/a" in difference()  # 0 and -0 are not the same bits
    rewrite(other, "rank_00000.safetensors", **{"master/a": a})
    assert "tensors of rank_00000.safetensors" in difference()
    rewrite(other, "buffers.safetensors", seen=torch.tensor(4))
    assert "seen, number 0" in difference()
    (final / "state.json").write_text(json.dumps({"step": STEPS, "skipped": 1}))
    assert "skipped: 0 in the straight run, 1 in the other" in difference()
    shutil.rmtree(final)
    assert "checkpoint of the other run" in difference()
    edit_journal(other, lambda record: record.clear() if record["step"] == STEPS else None)
    assert "event step: present in the straight run, absent in the other" in difference()
    journal = Journal(other / JOURNAL)
    journal.write("skipped", 2, in_a_row=1)
    journal.close()
    assert "step 2, event skipped: absent in the straight run, present in the other" in difference()
    assert difference() == "None"
