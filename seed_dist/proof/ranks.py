"""Starting the training command on several ranks, as the demo does with torchrun, or inside a SLURM allocation by srun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from seed_dist.faults import VARIABLE

_PORTS = count(15000 + os.getpid() % 9000)  # below Linux's own range; another for every start


def start_training(arguments: Sequence[str], ranks: int, log: Path, fault: str = "", restarts: int = 0) -> Started:
    """`python -m seed_dist.train ARGUMENTS` on so many ranks, with `fault` planned in all of them (`seed_dist.faults`).

    torchrun starts all ranks again after one has ended with an error, `restarts` times at most.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WDS_SECURE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {VARIABLE: fault}
    if in_allocation():
        launcher = ["srun", f"--ntasks={ranks}", "--kill-on-bad-exit=1", sys.executable]
        environment |= _meeting_point()
    else:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launcher += [f"--max-restarts={restarts}"]
    command = [*launcher, "-m", "seed_dist.train", *arguments]
    with log.open("a") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


Started = subprocess.Popen[bytes]


def in_allocation() -> bool:
    """Whether this process may start job steps: it runs in a job, and is no task of a step itself."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


def ranks_here() -> int:
    """As many ranks as the allocation has tasks; 2 outside one."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if in_allocation() else 2


def _meeting_point() -> dict[str, str]:
    """The first node of the allocation, and a port that no earlier start had."""
    nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    first = subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
    return {"MASTER_ADDR": first, "MASTER_PORT": str(next(_PORTS))}
