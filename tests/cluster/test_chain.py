"""The whole pipeline as a user runs it on a cluster: submitted as a chain of jobs, and by the batch scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.obs.destination import DATABASE
from tests.cluster.cluster import ENDED, ROOT, Cluster, Job, restored, wait_until
from tests.unit.eval import tiny_workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

QUICK = tuple(
    f"{stage}_training.{option}"
    for stage in ("causal_qformer", "codebook", "lora")
    for option in ("steps=4", "global_batch=16", "warmup_steps=1", "validate_every=4", "checkpoint_every=2")
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the recipe `glyphs` that make everything tiny; its backbones are drawn once."""
    overrides = (*tiny_workspace.OVERRIDES, *tiny_workspace.frozen_models(tmp_path_factory.mktemp("backbones")))
    return [word for item in (*overrides, "backbones.qformer=null", *QUICK) for word in ("--set", item)]


@pytest.fixture(scope="module")
def chain(cluster: Cluster, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that `launchers/submit.py --on slurm` leaves; a training is pre-empted on the way."""
    work = tmp_path_factory.mktemp("chain") / "work"
    shape = ["--nodes", "2", "--ranks-per-node", "1", "--gpus-per-node", "0", "--hours", "1", "--scale", "0.02"]
    command = [sys.executable, "launchers/submit.py", "--recipe", "glyphs", "--work", work, "--on", "slurm", *shape]
    submitted = cluster.run(*command, "--shard-tasks", "2", "--encode-tasks", "2", *settings)
    jobs = {name: Job(cluster, number) for name, number in re.findall(r"^(\w+): job (\d+)", submitted, re.MULTILINE)}
    assert list(jobs)[-1] == "eval", submitted
    training = jobs["train_causal_qformer"]
    assert training.wait_for("RUNNING", *ENDED, timeout_s=600) == "RUNNING", {n: j.state for n, j in jobs.items()}
    wait_until((work / "causal_qformer" / "journal.jsonl").exists, 200, lambda: training.log)
    cluster.run("scancel", "--signal=USR2", training.number)  # what SLURM sends when a job is pre-empted
    jobs["eval"].wait_for(*ENDED, timeout_s=900)
    assert {name: job.state for name, job in jobs.items()} == dict.fromkeys(jobs, "COMPLETED"), submitted
    assert training.restarts <= 1  # none when the signal came after the last step
    return work


def test_the_chain_ends_with_a_report(chain: Path) -> None:
    assert "seed" in (chain / "report.html").read_text().lower()
    assert json.loads((chain / "report.json").read_text())
    assert (chain / "lora" / DATABASE).exists()


def test_the_jobs_ran_a_copy_of_the_code(chain: Path) -> None:
    (code,) = (chain / "submitit").glob("code-*")
    journal = (chain / "codebook" / "journal.jsonl").read_text().splitlines()
    start = json.loads(journal[0])
    assert start["git"]["revision"] is not None
    scripts = [path.read_text() for path in (chain / "submitit").glob("*_submission.sh")]
    assert len(scripts) > 5
    assert all(f"cd {code}" in script for script in scripts)


def test_the_batch_scripts_make_the_same(cluster: Cluster, chain: Path, settings: list[str], tmp_path: Path) -> None:
    """`sbatch slurm/tokenizer.sbatch` as a user types it, on the features that the chain has made."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(chain / "images", work / "images")
    for target in ("patches", "image_embedding"):
        shutil.copytree(chain / "features" / target, work / "features" / target)
    with restored(cluster):
        shape = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0")
        job = cluster.submit(*shape, "slurm/tokenizer.sbatch", *settings, RECIPE="glyphs", WORK=str(work))
        assert job.wait_for(*ENDED, timeout_s=900) == "COMPLETED", job.log
    ours, theirs = (sorted((folder / "features/codes/train").glob("*.tar")) for folder in (work, chain))
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "slurm-" not in status.stdout
