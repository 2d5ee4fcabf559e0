"""The launcher: what it asks for, what its tasks see, how a failure looks. Real processes, fake SLURM programs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.jobs import Place, Shape, parameters, program_and_arguments, run_here, submit_to_slurm
from launchers.snapshot import copy_code
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.errors import SeedDistError
from seed_dist.obs.provenance import git_revision
from seed_dist.ops.chain import ROOT, Step
from tests.pictures import content, fill

SHAPE = Shape(nodes=8, ranks_per_node=8, gpus_per_node=8, hours=2, partition=None)
HERE = Shape(nodes=1, ranks_per_node=2, gpus_per_node=0, hours=1, partition=None)

SHOW_WORLD = """
import json, os, sys
from pathlib import Path
from seed_dist.topology import world_from_environment
world = world_from_environment()
names = ("MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")
Path(sys.argv[1], f"rank{world.rank}.json").write_text(
    json.dumps({"size": world.size, "local": [world.local_rank, world.local_size], **{n: os.environ[n] for n in names}})
)
sys.exit(int(sys.argv[2]))
"""

FAKE_SBATCH = """#!/bin/sh
case "$1" in *submission_file*.sh) ;; *) echo "unknown: $*" >&2; exit 1 ;; esac
cp "$1" "$RECORD/$(ls "$RECORD" | wc -l).sh"
echo "Submitted batch job $(( 100 + $(ls "$RECORD" | wc -l) ))"
"""


AWAY_ONCE = """#!/bin/sh
[ -e "$RECORD/away" ] || { touch "$RECORD/away"; echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1; }
"""


def place(work: Path) -> Place:
    return Place(ROOT, work, "glyphs")


def step(script: Path, *arguments: str, name: str = "train_test") -> Step:
    return Step(name, (sys.executable, str(script), *arguments))


@pytest.fixture
def show_world(tmp_path: Path) -> Path:
    script = tmp_path / "show_world.py"
    script.write_text(SHOW_WORLD)
    return script


def test_torchrun_is_left_out_of_the_command() -> None:
    launched = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "-m",
        "seed_dist.train",
        "--stage",
        "lora",
    )
    assert program_and_arguments(Step("train_lora", launched)) == ("seed_dist.train", ("--stage", "lora"))
    assert program_and_arguments(Step("encode", (sys.executable, "x/encode.py", "--a"))) == ("x/encode.py", ("--a",))


def test_trainings_get_all_nodes_and_other_steps_one_task() -> None:
    training = parameters(Step("train_lora", ()), SHAPE, place(Path("w")), after="17")
    other = parameters(Step("eval", ()), SHAPE, place(Path("w")), after=None)
    assert (training["nodes"], training["ntasks_per_node"], training["gpus_per_node"]) == (8, 8, 8)
    assert (other["nodes"], other["ntasks_per_node"], other["gpus_per_node"]) == (1, 1, 1)
    assert training["dependency"] == "afterok:17"
    assert "dependency" not in other


def test_local_tasks_know_their_rank_and_see_all_devices(show_world: Path, tmp_path: Path) -> None:
    run_here([step(show_world, str(tmp_path), "0")], HERE, place(tmp_path))
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [entry["size"] for entry in seen] == [2, 2]
    assert [entry["local"] for entry in seen] == [[0, 2], [1, 2]]
    assert {entry["MASTER_ADDR"] for entry in seen} == {"127.0.0.1"}
    assert len({entry["MASTER_PORT"] for entry in seen}) == 1
    assert {entry["CUDA_VISIBLE_DEVICES"] for entry in seen} == {""}


def test_a_failed_step_stops_the_chain_and_names_its_log(show_world: Path, tmp_path: Path) -> None:
    failing = step(show_world, str(tmp_path), "3", name="train_a")
    never = step(tmp_path / "absent.py", name="train_b")
    with pytest.raises(SeedDistError, match=r"(?s)train_a failed.*exit code 3.*log"):
        run_here([failing, never], HERE, place(tmp_path))


def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand for SLURM's; the value is the folder where what is submitted arrives."""
    programs, record = tmp_path / "bin", tmp_path / "record"
    programs.mkdir()
    record.mkdir()
    for name, text in {"sbatch": FAKE_SBATCH, "srun": "#!/bin/sh\nexit 1\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(record))
    return record


def test_slurm_jobs_wait_for_each_other(show_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = fake_slurm(tmp_path, monkeypatch)
    submit_to_slurm([step(show_world, name="train_a"), step(show_world, name="eval")], SHAPE, place(tmp_path))
    first, second = ((record / name).read_text() for name in ("0.sh", "1.sh"))
    assert "#SBATCH --nodes=8" in first
    assert "#SBATCH --ntasks-per-node=8" in first
    assert "#SBATCH --gpus-per-node=8" in first
    assert "--kill-on-bad-exit=1" in first
    assert "dependency" not in first
    assert "#SBATCH --dependency=afterok:101" in second
    assert "#SBATCH --nodes=1" in second


def test_sharding_is_an_array_that_the_next_step_waits_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the jobs run at the same time, and make one set together; on SLURM they are one array."""
    source, out = fill(tmp_path / "source", 30), tmp_path / "out"
    arguments = (str(source), str(out), "--shard-samples", "5", "--workers", "1")
    shard = step(root / "data_prep" / "shard.py", *arguments, name="shard_train")
    shape = replace(HERE, shard_tasks=2)
    run_here([shard], shape, place(tmp_path))
    shard_source(source, tmp_path / "alone", ShardOptions(shard_samples=5, workers=1))
    assert content(out) == content(tmp_path / "alone")
    logs = [path.read_text() for path in (tmp_path / "submitit").glob("*_0_log.out")]
    assert [f"{out} is finished" in log for log in logs] == [True, True]
    record = fake_slurm(tmp_path, monkeypatch)
    submit_to_slurm([shard, step(source, name="eval")], replace(SHAPE, shard_tasks=16), place(tmp_path / "more"))
    assert "#SBATCH --array=0-15" in (record / "0.sh").read_text()
    assert "#SBATCH --dependency=afterok:101\n" in (record / "1.sh").read_text()


def test_dry_run_shows_all_steps_and_touches_nothing(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "launchers/submit.py", "--recipe", "glyphs", "--work", str(tmp_path / "w")]
    run = subprocess.run(
        [*command, "--on", "slurm", "--dry-run"], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    names = [line.removeprefix("### ") for line in run.stdout.splitlines() if line.startswith("### ")]
    assert names[-6:] == [
        "train_causal_qformer",
        "encode_causal",
        "train_codebook",
        "encode_codes",
        "train_lora",
        "eval",
    ]
    assert run.stdout.count("source slurm/common.sh") == len(names)
    assert "#SBATCH --nodes=8" in run.stdout
    assert not (tmp_path / "w").exists()


def test_jobs_run_the_code_as_it_was(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in ("kept", "edited", "removed"):
        (checkout / name).write_text("committed")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=first"], check=True)
    (checkout / "edited").write_text("edited")
    (checkout / "removed").unlink()
    (checkout / "new").write_text("new")
    copy = copy_code(checkout, tmp_path / "copy")
    (checkout / "kept").write_text("changed later")
    found = {path.name: path.read_text() for path in copy.iterdir() if path.is_file()}
    assert found == {"kept": "committed", "edited": "edited", "new": "new"}
    assert git_revision(copy)["revision"] is not None
    with pytest.raises(SeedDistError, match="git clone"):
        copy_code(tmp_path / "nowhere", tmp_path / "other")


def test_a_controller_that_is_away_for_a_moment_is_asked_again(
    show_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fake_slurm(tmp_path, monkeypatch)
    monkeypatch.setattr("launchers.jobs._PAUSE_S", 0.1)
    (tmp_path / "bin" / "sbatch").write_text(AWAY_ONCE + FAKE_SBATCH)
    submit_to_slurm([step(show_world, name="eval")], SHAPE, place(tmp_path))
    assert (record / "1.sh").exists()


def test_an_unknown_step_is_named(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "launchers/submit.py", "--recipe", "glyphs", "--work", str(tmp_path), "--on", "local"]
    run = subprocess.run(
        [*command, "--steps", "train_all"], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 2
    assert "train_all" in run.stderr
    assert "train_lora" in run.stderr
