"""What a run may need of others: the batch system and an MLflow server."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from seed_dist.doctor.finding import Finding

_CONNECT_S, _SBATCH_S = 3.0, 60.0


def mlflow_finding(environment: Mapping[str, str]) -> Finding:
    """Training itself never talks to a server: it appends to its journal, which is copied afterwards."""
    address = environment.get("MLFLOW_TRACKING_URI", "")
    if not address.startswith("http"):
        return Finding("mlflow", "ok", "no server needed: every run is copied to its own RUN/mlflow.db")
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S):
            return Finding("mlflow", "ok", f"{parts.hostname}:{port} answers")
    except (OSError, ValueError) as error:
        text = f"MLFLOW_TRACKING_URI names {parts.hostname}, which does not answer ({error}); no run waits for it"
        return Finding("mlflow", "warning", text, "unset MLFLOW_TRACKING_URI")


def sbatch_finding(script: Path, options: Sequence[str], environment: Mapping[str, str]) -> Finding:
    """Whether the batch system would take the job, and when it would start; nothing is submitted."""
    program = shutil.which("sbatch", path=environment.get("PATH"))
    if program is None:
        return Finding("sbatch", "ok", "no sbatch here: jobs are not checked")
    command = [program, "--test-only", *options, str(script)]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SBATCH_S, env=dict(environment)
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "sbatch", "failed", f"no answer within {_SBATCH_S:.0f} s: is the controller down?", "scontrol ping"
        )
    told = " ".join((run.stderr or run.stdout).split())
    if run.returncode == 0:
        return Finding("sbatch", "ok", told or "the job would be taken")
    return Finding(
        "sbatch",
        "failed",
        told,
        f"sbatch --test-only --partition=NAME --account=NAME {' '.join([*options, str(script)])}",
    )
