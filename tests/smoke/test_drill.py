"""The fire drill with local processes: a real training is signalled and killed from outside, and comes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import TIMEOUT_S

pytestmark = [pytest.mark.multirank, pytest.mark.slow]


@pytest.mark.timeout(5 * TIMEOUT_S)
def test_a_local_training_comes_through(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seed_dist.drill", "--on", "local", "--work", str(tmp_path), "--steps", "200"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "drill.json").read_text())
    assert [check["name"] for check in kept["checks"] if check["passed"]] == [
        "an undisturbed twin finishes",
        "starts and trains",
        "SIGUSR1 makes all ranks save",
        "goes back into the queue",
        "is requeued once",
        "goes on at the same step",
        "a killed rank brings the job back",
        "loses no checkpoint",
        "finishes",
        "equals its undisturbed twin",
    ]
    assert done.stdout.count("PASS  ") == 10
    starts = [line for line in (tmp_path / "proofs/causal_qformer/disturbed/causal_qformer/journal.jsonl").open()
              if '"event": "start"' in line]  # fmt: skip
    assert len(starts) == 3
