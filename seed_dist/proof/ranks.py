"""Starting the training command on several ranks: by torchrun as the demo does, inside a SLURM allocation by srun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from seed_dist.faults import VARIABLE

Started = subprocess.Popen[bytes]
_PORTS = count(15000 + os.getpid() % 9000)  # below Linux's own range; another for every start


def start_training(arguments: Sequence[str], ranks: int, log: Path, fault: str = "") -> Started:
    """`python -m seed_dist.train ARGUMENTS` on so many ranks, with `fault` planned in all of them (`seed_dist.faults`);
    what it says is appended to `log`.
    """
    if not in_allocation():
        return start_by_torchrun(arguments, ranks, log, fault)
    launcher = ["srun", f"--ntasks={ranks}", "--kill-on-bad-exit=1", sys.executable]
    return _start([*launcher, "-m", "seed_dist.train", *arguments], log, {VARIABLE: fault, **_meeting_point()})


def start_by_torchrun(arguments: Sequence[str], ranks: int, log: Path, fault: str = "", restarts: int = 0) -> Started:
    """The same on this machine. After one rank has ended with an error, all are started again, `restarts` times at
    most.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, f"--max-restarts={restarts}", "-m", "seed_dist.train", *arguments]
    return _start(command, log, {VARIABLE: fault})


def in_allocation() -> bool:
    """Whether this process may start job steps: it runs in a job, and is no task of a step itself."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


def ranks_here() -> int:
    """As many ranks as the allocation has tasks; 2 outside one."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if in_allocation() else 2


def _start(command: Sequence[str], log: Path, changes: dict[str, str]) -> Started:
    quiet = {"HF_HUB_OFFLINE": "1", "WDS_SECURE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("a") as file:
        return subprocess.Popen(command, env={**os.environ, **quiet, **changes}, stdout=file, stderr=subprocess.STDOUT)


def _meeting_point() -> dict[str, str]:
    """The first node of the allocation, and a port that no earlier start had."""
    nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    first = subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
    return {"MASTER_ADDR": first, "MASTER_PORT": str(next(_PORTS))}
