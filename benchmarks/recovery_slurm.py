"""A node of a SLURM job loses its power: how long until the first step that is new. `benchmarks.recovery --on slurm`.

SLURM's own daemons with three virtual nodes (`tests/cluster`), so as root; slurm/lora.sbatch as it ships, on two of
them. The node falls silent and all on it is killed, so nobody is told. Parts, read from the controller's log and the
run's journal:

    detect      until the controller has missed the node and put the job back into the queue (SlurmdTimeout)
    requeue     until the job starts again on the spare node: its other ranks wait in a collective and are killed
                (KillWait), and SLURM holds a requeued job back (cred_expire)
    relaunch    until the new rank 0 is a process: batch script, srun

and then as under torchrun. An ordinary start begins with `queue`, from sbatch to the start of the job.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.recovery_parts import Round, parts_of_start, records, wait_for_step
from seed_dist.proof.jobs import TRAINING
from tests.cluster.cluster import Cluster, Job, reason_for_no_cluster, restored, wait_until

_PATIENCE_S = 300.0


@contextmanager
def slurm_rounds(arguments: Sequence[str], run: Path) -> Iterator[tuple[Round, dict[str, float]]]:
    """A function that does one round, and the cluster's settings on which the parts depend, in seconds."""
    reason = reason_for_no_cluster()
    if reason:
        raise SystemExit(f"no virtual SLURM cluster: {reason}")
    with Cluster(nodes=3) as cluster:
        text = (cluster.folder / "slurm.conf").read_text()
        found = {name: re.search(rf"{name}=(\d+)", text) for name in ("SlurmdTimeout", "KillWait", "cred_expire")}
        settings = {f"{name}_s": float(match[1]) for name, match in found.items() if match}
        yield lambda after_s: _one_round(cluster, arguments, run, after_s), settings


def _one_round(
    cluster: Cluster, arguments: Sequence[str], run: Path, after_s: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Submit, let a node lose its power so long after the first step, wait for the first new one."""
    shutil.rmtree(run)
    with restored(cluster):
        began_s = time.time()
        job = cluster.submit(
            "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "slurm/lora.sbatch", *arguments,
            RECIPE="glyphs", WORK=str(run.parent),
        )  # fmt: skip
        log = Path(job.facts()["StdOut"])
        wait_for_step(run, 1, 1, log)
        started_s = started(job, 1)
        begun = {"queue": started_s - began_s, **parts_of_start(run, 1, started_s, 1, _rank_0(job))}
        time.sleep(after_s)
        node, killed_s = cluster.nodes["node2"], time.time()
        node.link("down")
        node.kill()
        wait_until(lambda: job.restarts == 1, _PATIENCE_S, job.facts)
        done = records(run, "step")[-1]["step"]
        wait_for_step(run, 2, done + 1, log)
        lost_s, started_s = node_was_missed(job, node.name), started(job, 2)
        waited = {"detect": lost_s - killed_s, "requeue": started_s - lost_s}
        return begun, {**waited, **parts_of_start(run, 2, started_s, done + 1, _rank_0(job))}


def _rank_0(job: Job) -> psutil.Process:
    processes = (psutil.Process(number) for number in job.processes())
    return next(p for p in processes if TRAINING in p.cmdline()[:4] and p.environ().get("SLURM_PROCID") == "0")


def started(job: Job, count: int) -> float:
    """When SLURM started the job for the `count`-th time, in seconds since 1970."""
    return _logged(job, rf"(?:Allocate|Started) JobId={job.number} .*")[count - 1]


def node_was_missed(job: Job, node: str) -> float:
    """When SLURM gave a node up, and put the job back into its queue."""
    return _logged(job, rf"requeue job JobId={job.number} due to failure of node {node}")[0]


def _logged(job: Job, what: str) -> list[float]:
    """When the controller wrote such lines."""
    text = (job.cluster.folder / "slurmctld.log").read_text()
    times = re.findall(rf"^\[(\S+)\] .*{what}$", text, re.MULTILINE)
    return [datetime.fromisoformat(time).timestamp() for time in times]
