"""The doctor beside a real SLURM: it learns whether a job would be taken, and measures its nodes before its work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import ROOT, Cluster, Job, restored, wait_until
from tests.harness import TIMEOUT_S

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4 * TIMEOUT_S)]
# A job like those in slurm/ whose work is to say where it is. Only its first life has a preflight: nothing else of a
# busy machine is to be found odd in the second.
SCRIPT = """#!/bin/bash
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || unset PREFLIGHT
source slurm/common.sh
srun bash -c 'echo works on $(hostname)'
"""
SLOW = "preflight.matmul:1:*:sleep"  # rank 1, which is on the second node


def sbatch_finding(cluster: Cluster, *words: str, **variables: str) -> dict[str, Any]:
    """What `python -m seed_dist.doctor` says of sbatch on the login node."""
    command = (sys.executable, "-m", "seed_dist.doctor", "--recipe", "glyphs", *words, "--json")
    done = cluster.head.run(
        *command, env={**cluster.environment, **variables}, cwd=ROOT, check=False, timeout_s=TIMEOUT_S
    )
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[\n") :])
    (finding,) = [one for one in found if one["what"] == "sbatch"]
    return finding


def submit(cluster: Cluster, work: Path, nodes: int, **variables: str) -> Job:
    script = cluster.folder / "measured.sbatch"
    script.write_text(SCRIPT)
    shape = (f"--nodes={nodes}", "--ntasks-per-node=1")
    return cluster.submit(*shape, script, PREFLIGHT="1", WORK=str(work), **variables)


def test_a_job_that_slurm_would_take_is_told_from_one_that_it_would_not(cluster: Cluster) -> None:
    before = cluster.run("squeue", "--noheader", "--states=all")
    taken = sbatch_finding(cluster, "--nodes", "2", "--gpus", "1")
    assert taken["state"] == "ok", taken
    assert "to start at" in taken["text"]
    assert "node[1-2]" in taken["text"]
    refused = sbatch_finding(cluster, "--nodes", "9", "--gpus", "1")  # of three
    assert refused["state"] == "failed", refused
    assert "node configuration is not available" in refused["text"]
    assert "--nodes=9" in refused["mend"]
    nowhere = sbatch_finding(cluster, "--nodes", "2", "--gpus", "1", SBATCH_PARTITION="none")
    assert nowhere["state"] == "failed", nowhere
    assert "invalid partition" in nowhere["text"]
    assert cluster.run("squeue", "--noheader", "--states=all") == before  # nothing was submitted


def test_a_controller_that_is_away_is_named(cluster: Cluster) -> None:
    with restored(cluster):
        cluster.kill_controller()
        finding = sbatch_finding(cluster, "--nodes", "2", "--gpus", "1")
    assert finding["state"] == "failed", finding
    assert "controller" in finding["text"].lower()


def test_a_node_found_odd_is_left_out_when_the_job_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    with restored(cluster):
        job = submit(cluster, tmp_path / "work", 2, SEED_DIST_FAULT=SLOW)
        job.wait_for("RUNNING")
        assert job.facts()["NodeList"] == "node[1-2]"
        wait_until(lambda: job.restarts == 1, TIMEOUT_S, lambda: job.log)
        job.wait_for("COMPLETED", "FAILED", timeout_s=TIMEOUT_S)
        log = job.log
        assert job.facts()["ExcNodeList"] == "node2", log
        assert "on node2: matmul_flops" in log
        assert f"job {job.number} goes back into the queue and leaves out node2" in log
        assert job.state == "COMPLETED", log
        assert sorted(line for line in log.splitlines() if line.startswith("works on")) == [
            "works on node1",
            "works on node3",
        ]


def test_a_job_whose_nodes_are_well_begins_its_work(cluster: Cluster, tmp_path: Path) -> None:
    with restored(cluster):
        job = submit(cluster, tmp_path / "work", 1)
        assert job.wait_for("COMPLETED", "FAILED", timeout_s=TIMEOUT_S) == "COMPLETED", job.log
        log = job.log
        assert log.index("ok       matrix product") < log.index("works on node1")
        assert job.restarts == 0


def test_no_more_nodes_are_left_out_than_a_job_has(cluster: Cluster, tmp_path: Path) -> None:
    """Two of three are already: without a third it could never start, so it works where it is."""
    with restored(cluster):
        script = cluster.folder / "measured.sbatch"
        script.write_text(SCRIPT)
        shape = ("--nodes=1", "--ntasks-per-node=2", "--exclude=node1,node3")
        variables = {"PREFLIGHT": "1", "WORK": str(tmp_path / "work"), "SEED_DIST_FAULT": SLOW}
        job = cluster.submit(*shape, script, **variables)
        assert job.wait_for("COMPLETED", "FAILED", timeout_s=TIMEOUT_S) == "COMPLETED", job.log
        assert "too many nodes would be left out (node[1,3],node2)" in job.log
        assert job.log.count("works on node2") == 2
        assert job.restarts == 0


def test_a_preflight_that_cannot_be_made_ends_the_job(cluster: Cluster) -> None:
    with restored(cluster):
        job = submit(cluster, Path("/proc/nowhere"), 1)
        assert job.wait_for("COMPLETED", "FAILED", timeout_s=TIMEOUT_S) == "FAILED"
        assert "error: the preflight ended with exit code" in job.log
        assert "works on" not in job.log
        assert job.restarts == 0
