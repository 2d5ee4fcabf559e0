"""Saving in the background on two ranks: what is written is what was copied, a rank that fails takes nobody with it, and
there are never two halves of a checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_dist.dist.checkpoint import list_checkpoints, verify_checkpoint
from seed_dist.dist.comm import Comm, LocalComm
from tests.forked import values, world

pytestmark = pytest.mark.multirank


def save_while_training(comm: Comm, folder: Path) -> dict[str, Any]:
    """Save after step 3 while steps 4 to 8 are trained, one exchange of flags after each, as the loop does."""
    from seed_dist.dist.checkpoint import load_checkpoint
    from seed_dist.dist.checkpoint_saver import Flags
    from tests.toy_engine import everything, toy_engine, toy_saver, toy_steps

    engine = toy_engine(comm)
    saver = toy_saver(folder, engine)
    toy_steps(engine, 0, 3)
    saved, results, steps = everything(engine), [], 3
    saver.begin({"step": 3, "samples": 24})
    began_s = time.monotonic()
    is_late = False
    while saver.is_busy and not is_late:
        toy_steps(engine, steps, steps + 1)
        steps += 1
        is_late, *flags = comm.any((time.monotonic() - began_s > 20, *saver.flags()))
        results += [result] if (result := saver.settle(Flags(*flags))) else []
    moved, fresh = everything(engine), toy_engine(comm)
    state = load_checkpoint(results[-1].path, fresh)
    restored = everything(fresh)
    return {
        "results": results,
        "trained_meanwhile": steps - 3,
        "state": state["samples"],
        "wrong": [name for name, value in saved.items() if not torch.equal(restored[name], value)],
        "unmoved": [name for name, value in saved.items() if torch.equal(moved[name], value)],
        "compared": len(saved),
    }


def test_training_goes_on_and_what_is_written_is_the_copied_moment(tmp_path: Path) -> None:
    """Rank 1's disk takes three seconds; the copy does not change while parameters and buffers do."""
    answers = values(world(save_while_training, 2, tmp_path, tmp_path / "c", fault="checkpoint.in_file:1:3:slow"))
    for answer in answers:
        (result,) = answer["results"]
        assert result.problem is None
        assert result.blocked_s < 1.0 < 3.0 <= result.written_s
        assert answer["trained_meanwhile"] > 5
        assert answer["wrong"] == []
        assert answer["compared"] > 20
        assert set(answer["unmoved"]) <= {"frozen.weight", "frozen.bias"}
        assert answer["state"] == 24
    assert answers[0]["results"] == answers[1]["results"]
    (path,) = list_checkpoints(tmp_path / "c")
    assert verify_checkpoint(path, LocalComm()) is None
    assert result.size_bytes == sum(f.stat().st_size for f in path.iterdir() if f.name != "manifest.json")
    assert (tmp_path / "c" / "latest").read_text() == "step_00000003\n"


def save_thrice(comm: Comm, folder: Path) -> list[list[Any]]:
    """Results of saves after steps 1, 2 and 3, and what lies in the folder after each."""
    from tests.toy_engine import save_now, toy_engine, toy_saver, toy_steps

    engine = toy_engine(comm)
    saver, told = toy_saver(folder, engine), []
    for step in (1, 2, 3):
        toy_steps(engine, step - 1, step)
        results = save_now(saver, step)
        comm.barrier()
        told.append([results, sorted(path.name for path in folder.iterdir())])
        comm.barrier()
    return told


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("checkpoint.in_file:1:2:full", "rank 1: [Errno 28] No space left on device"),
        ("checkpoint.file_written:0:2:io", "rank 0: [Errno 5] Input/output error"),
        ("checkpoint.begun:*:2:quota", "rank 0: [Errno 122] Disk quota exceeded"),
        ("checkpoint.manifest_written:0:2:full", "rank 0: [Errno 28] No space left on device"),
    ],
    ids=["full disk of rank 1", "broken disk of rank 0", "quota of all", "full disk at the commit"],
)
def test_one_ranks_disk_fails_and_training_goes_on(fault: str, problem: str, tmp_path: Path) -> None:
    """Both know it, both try once more together, nothing half is left, the next save works."""
    answers = values(world(save_thrice, 2, tmp_path, tmp_path / "c", fault=fault))
    assert answers[0] == answers[1]
    (first, after_1), (second, after_2), (third, after_3) = answers[0]
    assert [result.problem for result in (*first, *third)] == [None, None]
    assert [result.is_retried for result in second] == [True, False]
    assert all(result.problem.startswith(problem) for result in second), second
    assert after_1 == after_2 == ["latest", "step_00000001"]
    assert after_3 == ["latest", "step_00000001", "step_00000003"]


def save_into_a_blocked_place(comm: Comm, folder: Path) -> tuple[list[Any], bool]:
    """A folder stands where rank 1 would write its file, until what was written is removed."""
    from tests.toy_engine import save_now, toy_engine, toy_saver

    saver = toy_saver(folder, toy_engine(comm))
    (folder / "step_00000005.partial" / "rank_00001.safetensors").mkdir(parents=True, exist_ok=True)
    comm.barrier()
    results = save_now(saver, 5)
    return results, verify_checkpoint(results[-1].path, comm) is None


def test_what_failed_once_is_written_again_from_the_same_copy(tmp_path: Path) -> None:
    for results, is_whole in values(world(save_into_a_blocked_place, 2, tmp_path, tmp_path / "c")):
        assert results[0].problem.startswith("rank 1: [Errno 21] Is a directory")
        assert [(result.step, result.problem is None) for result in results] == [(5, False), (5, True)]
        assert is_whole


def save_at_the_end(comm: Comm, folder: Path, step: int) -> list[Any]:
    from tests.toy_engine import save_now, toy_engine, toy_saver, toy_steps

    engine = toy_engine(comm)
    saver = toy_saver(folder, engine)
    toy_steps(engine, 0, 1)
    return save_now(saver, step)


def save_after_the_folder_has_gone(comm: Comm, folder: Path) -> list[Any]:
    from tests.toy_engine import save_now, toy_engine, toy_saver

    saver = toy_saver(folder, toy_engine(comm))
    if comm.rank == 0:
        folder.rename(folder.with_name("unmounted"))
    comm.barrier()
    return [result.problem for result in save_now(saver, 1)]


def test_a_folder_that_vanishes_is_not_made_anew_somewhere_else(tmp_path: Path) -> None:
    for problems in values(world(save_after_the_folder_has_gone, 2, tmp_path, tmp_path / "c")):
        assert len(problems) == 2
        assert all("rank 0: [Errno 2] No such file" in problem and "rank 1: " in problem for problem in problems)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("rendezvous")] == ["unmounted"]


def leave_while_writing(comm: Comm, folder: Path) -> list[Any]:
    """The end of a run comes while the save is being written; then one that nobody waits for long enough."""
    from tests.toy_engine import toy_engine, toy_saver

    engine = toy_engine(comm)
    saver, told = toy_saver(folder, engine), []
    saver.begin({"step": 1})
    told.append([result.problem for result in saver.wait(20.0)])
    saver.begin({"step": 2})
    began_s = time.monotonic()
    told += [[result.problem for result in saver.wait(0.5)], saver.is_busy, time.monotonic() - began_s]
    with pytest.raises(AssertionError, match="under way"):
        saver.begin({"step": 3})
    return told


def test_the_end_waits_for_the_write_but_not_for_ever(tmp_path: Path) -> None:
    """Of a disk that answers after three seconds."""
    fault = "checkpoint.begun:0:1:slow,checkpoint.begun:1:2:slow"
    for first, second, is_busy, waited_s in values(world(leave_while_writing, 2, tmp_path, tmp_path / "c", fault=fault)):
        assert first == [None]
        assert (second, is_busy) == ([], True)
        assert 0.5 <= waited_s < 2.5
    assert [path.name for path in list_checkpoints(tmp_path / "c")] == ["step_00000001"]
    assert (tmp_path / "c" / "step_00000002.partial").is_dir()


def test_a_defect_is_no_full_disk(tmp_path: Path) -> None:
    """It ends the rank that has it with its traceback, and so all."""
    zero, one = world(save_at_the_end, 2, tmp_path, tmp_path / "c", 4, fault="checkpoint.files_written:1:4:raise")
    assert "InjectedFaultError" in one.error
    assert "in _write" in one.error
    assert zero.code == 1
    assert list_checkpoints(tmp_path / "c") == []


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    """Training has gone back behind it, or it was found broken."""
    folder = tmp_path / "c"
    values(world(save_at_the_end, 2, tmp_path, folder, 4))
    (folder / "step_00000004" / "buffers.safetensors").write_bytes(b"broken")
    values(world(save_at_the_end, 1, tmp_path, folder, 4))
    assert verify_checkpoint(folder / "step_00000004", LocalComm()) is None
    names = sorted(path.name for path in (folder / "step_00000004").iterdir())
    assert names == ["buffers.safetensors", "manifest.json", "rank_00000.safetensors", "state.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000004"]
