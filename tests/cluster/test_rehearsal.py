"""The whole topology, small: ZeRO-2 over several nodes of several ranks, a node is lost, the rest goes on.

SEED_DIST_REHEARSAL=8x8 is that of the published run, 64 ranks; it takes about 0.3 GiB of memory for each of them. The
default is as many nodes as fit into the memory that is free now.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.cluster import ENDED, Cluster, reason_for_no_cluster, wait_until
from tests.cluster.training import SLOW, Training

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]
GIB = 1 << 30
RANK_GIB = 0.35
SHAPES = ((8, 8), (4, 8), (4, 4), (3, 2))


def shape() -> tuple[int, int]:
    """Nodes and ranks of each."""
    asked = os.environ.get("SEED_DIST_REHEARSAL")
    if asked:
        nodes, ranks = asked.split("x")
        return int(nodes), int(ranks)
    free_gib = psutil.virtual_memory().available / GIB - 2
    return next((s for s in SHAPES if s[0] * s[1] * RANK_GIB < free_gib), SHAPES[-1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = reason_for_no_cluster()
    if reason:
        pytest.skip(f"no virtual SLURM cluster: {reason}")
    with Cluster(nodes=shape()[0]) as running:
        yield running


def test_a_node_of_many_is_lost_and_the_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    nodes, ranks = shape()
    batch = nodes * (nodes - 1) * ranks  # divides by the ranks of all nodes and by those of one less: 448 for 8 x 8
    steps = 6
    training = Training(tmp_path / "work", steps, samples=batch + 8, global_batch=batch, checkpoint_every=2)
    before_gib = psutil.virtual_memory().used / GIB
    faults = ",".join([SLOW] * 4)
    job = training.submit_for_any(cluster, f"{nodes - 1}-{nodes}", ranks, SEED_DIST_FAULT=faults)
    wait_until(lambda: training.newest_step() >= 3, 900, lambda: job.log[-6000:])
    used_gib = psutil.virtual_memory().used / GIB - before_gib
    cluster.nodes[f"node{nodes}"].kill()  # everything on it, like a loss of power
    assert job.wait_for(*ENDED, timeout_s=900) == "COMPLETED", job.log[-6000:]
    starts = training.events("start")
    assert [start["world_size"] for start in starts] == [nodes * ranks, (nodes - 1) * ranks]
    assert starts[1]["source"].endswith("step_00000002")
    assert [record["step"] for record in training.events("step")][-4:] == [3, 4, 5, 6]
    assert (training.folder / "export").is_dir()
    seconds = starts[1]["time_s"] - starts[0]["time_s"]
    print(f"{nodes * ranks} ranks took {used_gib:.1f} GiB; from the first start to the second it was {seconds:.0f} s")
