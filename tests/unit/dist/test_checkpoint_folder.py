"""What stays in the folder of checkpoints, and whether it is fit for use before the first step."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seed_dist.dist.checkpoint import being_read, list_checkpoints
from seed_dist.dist.checkpoint_folder import Retention, check_room, prepare_folder
from seed_dist.dist.comm import Comm, LocalComm
from seed_dist.errors import CheckpointError
from tests.forked import values, world

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint_format_1" / "step_00000004"
SIZE_BYTES = sum(file.stat().st_size for file in GOLDEN.iterdir())


def put(checkpoints: Path, *steps: int) -> None:
    for step in steps:
        shutil.copytree(GOLDEN, checkpoints / f"step_{step:08d}")


def break_it(checkpoints: Path, step: int, name: str = "rank_00000.safetensors", size: int | None = None) -> None:
    path = checkpoints / f"step_{step:08d}" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content[:size])


def steps(checkpoints: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in list_checkpoints(checkpoints)]


def test_the_newest_and_the_permanent_stay_and_nothing_half_does(tmp_path: Path) -> None:
    put(tmp_path, 10, 20, 30, 40, 50, 60)
    (tmp_path / "step_00000007.partial").mkdir()
    Retention(tmp_path, keep=2, permanent_every=20).prune(60)
    assert steps(tmp_path) == [20, 40, 50, 60]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")) == []
    Retention(tmp_path, keep=2).prune(60)
    assert steps(tmp_path) == [50, 60]


def test_what_training_went_back_behind_does_not_pass_for_the_newest(tmp_path: Path) -> None:
    put(tmp_path, 600, 610, 615)
    retention = Retention(tmp_path, keep=2)
    retention.leave_behind(600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000600"]
    assert (tmp_path / "latest").read_text() == "step_00000600\n"
    put(tmp_path, 605)
    retention.prune(605)
    assert steps(tmp_path) == [600, 605]


def test_what_is_broken_does_not_count_as_kept(tmp_path: Path) -> None:
    """Seen by its size at once, and by its checksums the first time that it would count."""
    put(tmp_path, 10, 20, 30, 40, 50)
    break_it(tmp_path, 50, size=9)
    break_it(tmp_path, 40)
    Retention(tmp_path, keep=2).prune(50)
    assert steps(tmp_path) == [20, 30, 40, 50]  # two whole ones, and the broken ones for whoever wants to look
    put(tmp_path, 60, 70)
    Retention(tmp_path, keep=2).prune(70)
    assert steps(tmp_path) == [60, 70]


def test_the_only_whole_one_stays_however_many_broken_ones_follow(tmp_path: Path) -> None:
    put(tmp_path, 10, 20, 30, 40)
    for step in (20, 30, 40):
        break_it(tmp_path, step, "manifest.json", size=40)
    Retention(tmp_path, keep=2).prune(40)
    assert steps(tmp_path) == [10, 20, 30, 40]


def test_one_that_is_being_loaded_stays_until_it_is_not(tmp_path: Path) -> None:
    """By this process, and by another one, say a run that starts from this one's checkpoint."""
    put(tmp_path, 10, 20, 30)
    with being_read(tmp_path / "step_00000010"):
        Retention(tmp_path, keep=2).prune(30)
        assert steps(tmp_path) == [10, 20, 30]
    code = (
        "import sys; from pathlib import Path; from seed_dist.dist.checkpoint import being_read\n"
        "with being_read(Path(sys.argv[1])):\n    print('reads', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "step_00000010")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "reads\n"
        Retention(tmp_path, keep=2).prune(30)
        assert steps(tmp_path) == [10, 20, 30]
        other.communicate("go\n", timeout=30)
    Retention(tmp_path, keep=2).prune(30)
    assert steps(tmp_path) == [20, 30]
    with pytest.raises(CheckpointError, match="step_00000010 has gone"), being_read(tmp_path / "step_00000010"):
        pass


def test_a_folder_that_has_vanished_is_told_at_the_start(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    prepare_folder(checkpoints, LocalComm())
    assert list(checkpoints.iterdir()) == []
    (checkpoints / "step_00000007.partial").mkdir()
    prepare_folder(checkpoints, LocalComm())
    assert list(checkpoints.iterdir()) == []
    checkpoints.rmdir()
    checkpoints.symlink_to(tmp_path / "not mounted")
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be made a folder.*mount"):
        prepare_folder(checkpoints, LocalComm())


def _probe(comm: Comm, mine: Path, theirs: Path) -> str:
    try:
        prepare_folder(mine if comm.rank == 0 else theirs, comm)
    except CheckpointError as error:
        return str(error)
    return "fit"


def probe_twice(comm: Comm, folder: Path, readonly: Path) -> list[str]:
    """With one folder; where the ranks see different disks; where one rank's is not there; where nobody can write."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    places = [folder / "shared", elsewhere, folder / "missing"]
    found = [_probe(comm, places[0], place) for place in places]
    try:
        prepare_folder(readonly, comm)
        found.append("fit")
    except Exception as error:  # noqa: BLE001 - its kind is what is looked at
        found.append(f"{type(error).__name__}: {error}")
    return found


def test_every_rank_must_write_where_rank_0_sees_it(tmp_path: Path) -> None:
    readonly = Path("/proc/sys")  # no process can make files there, whoever it belongs to
    zero, one = values(world(probe_twice, 2, tmp_path, tmp_path, readonly))
    assert zero[0] == one[0] == "fit"
    assert "rank 0 does not see what ranks [1] write" in one[1]
    assert re.search(r"rank 0 does not see what ranks \[1\] write", zero[1])
    assert re.search(r"cannot be written to .*: rank 1 on .*: No such file", zero[2])
    assert zero[3].startswith("CheckpointError: ")
    assert one[3].startswith("RankZeroError: ")
    assert sorted((tmp_path / "shared").iterdir()) == []


def test_room_for_what_is_kept_and_the_next_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)

    def free(size_bytes: int, total: int = usage.total) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(total, 0, size_bytes))

    def check(permanent: int = 0) -> None:
        check_room(tmp_path, LocalComm(), own_bytes=SIZE_BYTES, keep=2, permanent=permanent)

    free(3 * SIZE_BYTES)
    check()
    free(3 * SIZE_BYTES - 1)
    with pytest.raises(CheckpointError, match=r"free, and a checkpoint takes .* 2 kept and the next one need"):
        check()
    put(tmp_path, 10, 20, 30)  # a run that goes on has two already, and needs one more
    free(SIZE_BYTES)
    check()
    free(SIZE_BYTES - 1)
    with pytest.raises(CheckpointError, match="need"):
        check()
    free(0, total=0)  # a file system that does not count
    check()
    assert caplog.records == []
    free(4 * SIZE_BYTES)
    check(permanent=4)
    assert "4 permanent ones" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_small_disk_of_its_own_is_too_small(tmp_path: Path) -> None:
    """The free space of a real file system, mounted where no other process sees it."""
    code = (
        "from pathlib import Path; import sys; from seed_dist.dist.checkpoint_folder import check_room\n"
        "from seed_dist.dist.comm import LocalComm\n"
        "check_room(Path(sys.argv[1]), LocalComm(), 300_000, 2, 0); print('room')\n"
        "check_room(Path(sys.argv[1]), LocalComm(), 400_000, 2, 0)\n"
    )
    script = f'mount -t tmpfs -o size=1m none "$1" && "{sys.executable}" -c "$2" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), code]
    run: Any = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in run.stderr or "permission denied" in run.stderr:
        pytest.skip("this root may not mount")
    assert run.stdout == "room\n"
    assert "0.00105 GB free, and a checkpoint takes 0.0004 GB: 2 kept and the next one need 0.0012 GB more" in run.stderr
