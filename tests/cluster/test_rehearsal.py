"""The whole topology, small: ZeRO-2 over several nodes of several ranks, a node is lost, the rest goes on.

SEED_DIST_REHEARSAL=8x8 is that of the published run, 64 ranks, and takes minutes. The default has all in it but size.
What does not fit into the memory that is free now is skipped, because the kernel would end processes of others too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.cluster import ENDED, Cluster, Job, reason_for_no_cluster, wait_until
from tests.cluster.training import SLOW, Training

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]
GIB = 1 << 30
RANK_GIB = 0.2  # measured with 64 ranks; what libraries have on disk is there once
SPARE_GIB = 2.0


def free_gib() -> float:
    return float(psutil.virtual_memory().available / GIB - SPARE_GIB)


def shape() -> tuple[int, int]:
    """Nodes and ranks of each."""
    nodes, ranks = os.environ.get("SEED_DIST_REHEARSAL", "3x2").split("x")
    return int(nodes), int(ranks)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = reason_for_no_cluster()
    if reason:
        pytest.skip(f"no virtual SLURM cluster: {reason}")
    nodes, ranks = shape()
    if nodes * ranks * RANK_GIB > free_gib():
        pytest.skip(f"{nodes * ranks} ranks take {nodes * ranks * RANK_GIB:.1f} GiB, and {free_gib():.1f} GiB are free")
    with Cluster(nodes=nodes) as running:
        yield running


def own_gib(job: Job) -> float:
    """Memory of a job's processes, pages that n of them share counted as an n-th each."""
    rollups = (Path(f"/proc/{number}/smaps_rollup") for number in job.processes())
    lines = (line for rollup in rollups for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return sum(int(line.split()[1]) for line in lines) * 1024 / GIB


def test_a_node_of_many_is_lost_and_the_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    """The codebook stage: of all stages its step has the most kinds of collectives."""
    nodes, ranks = shape()
    batch = nodes * (nodes - 1) * ranks  # divides by the ranks of all nodes and by those of one less: 448 for 8 x 8
    options = {"global_batch": batch, "checkpoint_every": 2, "validate_every": 6}
    training = Training(tmp_path / "work", 6, batch + 8, "codebook", **options)
    faults = ",".join([SLOW] * 6)
    job = training.submit_for_any(cluster, f"{nodes - 1}-{nodes}", ranks, SEED_DIST_FAULT=faults)
    wait_until(lambda: training.newest_step() >= 3, 900, lambda: job.log[-6000:])
    used_gib = own_gib(job)
    cluster.nodes[f"node{nodes}"].kill()  # everything on it, like a loss of power
    assert job.wait_for(*ENDED, timeout_s=900) == "COMPLETED", job.log[-6000:]
    starts, steps = training.events("start"), training.events("step")
    # SLURM may end the next attempt's ranks too, when it tells a slow node at last that the first one's are to end.
    assert job.restarts in (1, 2), job.log[-6000:]
    sizes = [start["world_size"] for start in starts]
    assert sizes == [nodes * ranks, *[(nodes - 1) * ranks] * job.restarts], job.log[-6000:]
    assert starts[1]["step"] in (2, 4)
    assert sorted({record["step"] for record in steps}) == list(range(1, 7))
    again = [record for record in steps if record["time_s"] > starts[1]["time_s"]]
    assert again[0]["step"] == starts[1]["step"] + 1
    for step in again:  # those that were done twice are the same
        first = next(record for record in steps if record["step"] == step["step"])
        assert step["samples_digest"] == first["samples_digest"]
        assert step["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert (training.folder / "export").is_dir()
    seconds = starts[1]["time_s"] - starts[0]["time_s"]
    print(f"{nodes * ranks} ranks took {used_gib:.1f} GiB; from the first start to the second it was {seconds:.0f} s")
