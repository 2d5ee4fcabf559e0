"""The fire drill on a real cluster: two nodes, a rank on each, SLURM's own signals and requeues."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, Cluster
from tests.harness import TIMEOUT_S

pytestmark = [pytest.mark.multirank, pytest.mark.slow]


@pytest.mark.timeout(6 * TIMEOUT_S)
def test_what_the_cluster_does_to_a_training_is_seen_by_the_drill(cluster: Cluster, tmp_path: Path) -> None:
    words = ["--on", "slurm", "--work", str(tmp_path), "--nodes", "2", "--steps", "200"]
    said = cluster.run(
        sys.executable, "-m", "seed_dist.drill", *words, check=False, PYTHONPATH=os.environ.get("PYTHONPATH", str(ROOT))
    )
    kept = json.loads((tmp_path / "drill.json").read_text())
    assert [check["name"] for check in kept["checks"] if not check["passed"]] == [], said
    assert len(kept["checks"]) == 9
