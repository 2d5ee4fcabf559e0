"""Batch system and server are asked as a user would ask them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from seed_dist.doctor.services import mlflow_finding, sbatch_finding


def test_a_server_is_needed_only_where_one_is_named() -> None:
    assert mlflow_finding({}).state == "ok"
    assert mlflow_finding({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert mlflow_finding({"MLFLOW_TRACKING_URI": address}).state == "ok"
    assert mlflow_finding({"MLFLOW_TRACKING_URI": address}).state == "warning"


def test_the_job_is_tried_and_not_submitted(tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "$@ $RECIPE" >&2\n[ "$RECIPE" = glyphs ]\n')
    sbatch.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECIPE": "glyphs"}
    taken = sbatch_finding(Path("slurm/lora.sbatch"), ["--nodes=2"], environment)
    assert (taken.state, taken.text) == ("ok", "--test-only --nodes=2 slurm/lora.sbatch glyphs")
    refused = sbatch_finding(Path("slurm/lora.sbatch"), ["--nodes=2"], environment | {"RECIPE": "x"})
    assert refused.state == "failed"
    assert refused.mend.endswith("--nodes=2 slurm/lora.sbatch")
    assert sbatch_finding(Path("x"), [], {"PATH": str(tmp_path / "none")}).state == "ok"
