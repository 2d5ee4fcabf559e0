"""How full a node is, once a minute: `python -m seed_dist.obs.node_sampler RUN --follow PID`, one process per node.

    {"event": "node", "step": 17, "host_memory_used_bytes": ..., "disk_free_bytes": ..., "gpu_memory_used_bytes": ...}

in RUN/nodes/HOST.jsonl, where `step` counts the node's samples through all attempts. Memory of GPUs is that of the
fullest one, utilisation the mean, both over all GPUs that nvidia-smi shows, whoever uses them. A process of its own,
because a driver that hangs must not hang a rank.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from seed_dist.cli import run_command
from seed_dist.obs.followed import Followed
from seed_dist.obs.journal import Journal, read_journal

NODES = "nodes"
_FIRST_S, _SAMPLE_EVERY_S = 1.0, 60.0
_PATIENCE_S = 20.0
_MIB = 1 << 20
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.obs.node_sampler",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run directory, for example runs/demo/codebook")
    parser.add_argument("--follow", required=True, type=int, metavar="PID", help="go on until that process has ended")
    args = parser.parse_args()
    path = args.run / NODES / f"{platform.node()}.jsonl"
    number = max((record["step"] for record in read_journal(path)), default=0)
    journal = Journal(path)
    followed = Followed(args.follow)
    psutil.cpu_percent()  # the first one has nothing to be compared with
    followed.wait(_FIRST_S)
    while followed.lives():
        number += 1
        journal.write("node", number, **sample(args.run))
        followed.wait(_SAMPLE_EVERY_S)


def sample(run: Path) -> dict[str, float]:
    """What this node uses now, of its processors since the last sample; no GPU figures where nvidia-smi gives none."""
    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(),
        "host_memory_used_bytes": memory.total - memory.available,
        "host_memory_total_bytes": memory.total,
        "disk_free_bytes": psutil.disk_usage(str(run)).free,
        **_gpus(),
    }


def _gpus() -> dict[str, float]:
    try:
        asked = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        rows = [[float(value) for value in line.split(",")] for line in asked.stdout.splitlines() if line.strip()]
        used, total, busy = zip(*rows, strict=True)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {
        "gpu_memory_used_bytes": max(used) * _MIB,
        "gpu_memory_total_bytes": max(total) * _MIB,
        "gpu_utilisation_percent": sum(busy) / len(busy),
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
