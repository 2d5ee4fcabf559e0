"""The fire drill on a real cluster: two nodes, a rank on each, SLURM's own signals and requeues."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, Cluster
from tests.harness import TIMEOUT_S

pytestmark = pytest.mark.cluster
PATIENCE_S = 5 * TIMEOUT_S


@pytest.mark.timeout(PATIENCE_S + 60)
def test_what_the_cluster_does_to_a_training_is_seen_by_the_drill(cluster: Cluster, tmp_path: Path) -> None:
    words = ["--on", "slurm", "--work", str(tmp_path), "--nodes", "2", "--steps", "200"]
    command = [sys.executable, "-m", "seed_dist.drill", *words]
    done = cluster.head.run(*command, env=cluster.environment, cwd=ROOT, check=False, timeout_s=PATIENCE_S)
    logs = "\n".join(path.read_text() for path in (tmp_path / "proofs").rglob("*.log"))
    kept = json.loads((tmp_path / "drill.json").read_text())
    failed = {check["name"] for check in kept["checks"] if not check["passed"]}
    assert not failed, f"{done.stdout}\n{logs}"
    assert len(kept["checks"]) == 10
    assert done.returncode == 0
