"""What the batch system says of the job that this process belongs to: nothing outside SLURM, or where it is silent."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_S = 10.0
# The worst of a job's steps is what ended it.
_STATES = ("OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "CANCELLED", "FAILED")


@dataclass(frozen=True)
class Job:
    """A job's number and how often it was requeued, and what the accounting knows; "" for what is not known."""

    number: str = ""
    restart: str = ""
    state: str = ""
    log: Path | None = None


def own_job() -> Job:
    """From the environment alone."""
    return Job(os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", ""))


def asked(job: Job) -> Job:
    """The same with state and log file, from sacct (where accounting is kept) and scontrol."""
    if not job.number:
        return job
    described = _answer("scontrol", "show", "job", job.number)
    log = re.search(r"^\s*StdOut=(.+)$", described, re.MULTILINE)
    steps = _answer("sacct", "--noheader", "--parsable2", "--format=State", "--jobs", job.number)
    found = f"{steps}\n{described}"
    state = next((name for name in _STATES if re.search(rf"\b{name}\b", found)), "")
    return Job(job.number, job.restart, state, Path(log[1].strip()) if log else None)


def _answer(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
