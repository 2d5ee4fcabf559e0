"""Whether the kernel killed a process for memory: its counters, which nobody resets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/memory"))


def oom_files(pid: int) -> list[Path]:
    """Files that count kills around a process: those of its memory cgroup (SLURM gives each job one), versions 2 and 1,
    and the whole node's.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = [line.split(":", 2)[2].lstrip("/") for line in lines if line.split(":")[1] in ("", "memory")]
    names = ("memory.events", "memory.oom_control")
    found = [root / path / name for path in paths for root in _CGROUPS for name in names]
    return [path for path in (*found, Path("/proc/vmstat")) if path.is_file()]


def oom_kills(files: Iterable[Path]) -> int:
    """Sum of the counters: what matters is whether it has grown."""
    total = 0
    for path in files:
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:  # the cgroup went with its last process
            continue
        total += int(found[1]) if found else 0
    return total
