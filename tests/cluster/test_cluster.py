"""The virtual cluster itself: jobs run on its nodes, nodes can be lost, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.recovery_slurm import node_was_missed, started
from tests.cluster.cluster import ROOT, Cluster, restored, wait_until

LEFT_ALONE = """
import sys, time
from tests.cluster.cluster import Cluster
with Cluster(nodes=1) as cluster:
    print(cluster.folder, cluster.head.sandbox.pid, flush=True)
    time.sleep(600)
"""


def script(cluster: Cluster, text: str) -> Path:
    path = cluster.folder / f"{time.monotonic_ns()}.sh"
    path.write_text(f"#!/bin/bash\n{text}\n")
    return path


def links() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def test_jobs_run_on_nodes_of_their_own_names_and_networks(cluster: Cluster) -> None:
    shown = cluster.run("srun", "--nodes=2", "--label", "bash", "-c", "hostname; getent hosts node2; ip route")
    assert "0: node1" in shown
    assert "1: node2" in shown
    assert shown.count("10.0.1.2        node2") == 2
    assert "src 10.0.1.1" in shown


def test_two_clusters_do_not_meet_and_nothing_is_left(cluster: Cluster) -> None:
    before = links()
    with Cluster(nodes=1) as other:
        assert other.run("srun", "hostname").split() == ["node1"]
        job = other.submit("--wrap=sleep 600")
        job.wait_for("RUNNING")
        wait_until(lambda: bool(job.processes()), 10, job.facts)
        assert job.number not in cluster.run("squeue", "--noheader").split()
        processes = job.processes()
        folder = other.folder
    assert links() == before
    assert not folder.exists()
    assert not any(Path(f"/proc/{number}").exists() for number in processes)


def test_even_a_killed_test_leaves_no_process() -> None:
    command = [sys.executable, "-c", LEFT_ALONE]
    test = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert test.stdout is not None
    folder, first = test.stdout.readline().split()
    os.kill(test.pid, signal.SIGKILL)
    test.wait()
    wait_until(lambda: not Path(f"/proc/{first}").exists(), 10, lambda: first)
    for path in Path("/proc").glob("[0-9]*/cmdline"):  # slurmd's arguments name no folder, but its environment does
        assert folder not in _text(path) + _text(path.with_name("environ")), path
    subprocess.run(["rm", "-r", folder], check=True)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_node_that_falls_silent_costs_the_job_a_requeue(cluster: Cluster) -> None:
    with restored(cluster):
        job = cluster.submit("--nodes=2", script(cluster, "srun sleep 600"))
        wait_until(lambda: bool(job.processes("node2")), 30, job.facts)
        cluster.nodes["node2"].link("down")
        cut_s = time.time()
        wait_until(lambda: job.restarts == 1, 60, job.facts)
        job.wait_for("RUNNING")
        assert job.facts()["NodeList"] == "node[1,3]"
        # What the benchmark of recovery reads in the controller's log.
        first_s, missed_s, second_s = started(job, 1), node_was_missed(job, "node2"), started(job, 2)
        assert first_s < cut_s < missed_s < second_s < time.time()
        assert second_s - missed_s >= 5, "cred_expire, for which a requeued job waits"


def test_bytes_are_counted_and_a_slow_link_is_slow(cluster: Cluster) -> None:
    with restored(cluster):
        node = cluster.nodes["node1"]
        before, began_s = node.sent_bytes(), time.monotonic()
        node.slow_down("8mbit")
        cluster.run("srun", "--nodelist=node1", "head", "--bytes=2000000", "/dev/zero")
        assert time.monotonic() - began_s > 1.5
        assert 2_000_000 < node.sent_bytes() - before < 3_000_000
