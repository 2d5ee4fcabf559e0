"""A short run of the training command calibrates the plan, and the plan stands beside what it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seed_dist.errors import DataError
from seed_dist.plan.comparison import compare, measured_shares, request_of
from seed_dist.plan.hardware import load_hardware
from seed_dist.plan.measured import read_run
from seed_dist.plan.report import comparison_text
from seed_dist.plan.request import Cluster
from tests.features import tiny_workspace
from tests.harness import finish, start_module_ranks

HARDWARE = {
    "name": "a processor", "compute_capability": None, "memory_bytes": 10**10, "peak_flops": {"fp32": 1e11},
    "memory_bytes_s": 1e10, "link_bytes_s": 1e10, "share_of_peak": [0.001, 1], "sources": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WORK/codebook after 24 steps on two ranks."""
    work = tmp_path_factory.mktemp("short")
    overrides = [*tiny_workspace(work, samples=64), "codebook_training.steps=24"]
    shutil.rmtree(work / "codebook")
    settings = [word for item in overrides for word in ("--set", item)]
    arguments = ["--recipe", "glyphs", "--stage", "codebook", "--work", str(work), "--mlflow", "off", *settings]
    done = finish(start_module_ranks("seed_dist.train", arguments, 2, work))
    assert [code for code, _ in done] == [0, 0], done
    return work / "codebook"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(HARDWARE))
    return Cluster(1, 2, load_hardware(str(path)))


@pytest.mark.multirank
@pytest.mark.slow
def test_a_short_run(run: Path, cluster: Cluster) -> None:
    measured = read_run(run)
    assert (measured.stage, measured.world_size, len(measured.step_s)) == ("codebook", 2, 21)
    shares = measured_shares([run], cluster)
    low, high = shares["codebook"]
    assert 0 < low <= high < 1
    request = request_of(measured, cluster).calibrated(None, shares)
    rows = {row.quantity: row for row in compare(measured, request)}
    fast, slow = rows["step"].planned
    assert fast <= rows["step"].actual - measured.wait_s <= 1.01 * slow  # calibrated by itself, so it must be inside
    for target in ("causal", "image_embedding"):
        row = rows[f"features {target}, train"]
        assert row.planned == (row.actual, row.actual)
    assert rows["checkpoint"].planned[0] < rows["checkpoint"].actual < rows["checkpoint"].planned[0] + 60_000
    text = comparison_text(list(rows.values()))
    assert len(text.splitlines()) == 1 + len(rows)


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give the folder of a run"):
        read_run(tmp_path)
