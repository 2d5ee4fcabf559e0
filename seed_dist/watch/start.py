"""Starts the watchdog, and what a rank does to be watched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seed_dist.watch.heartbeat import Heartbeat
from seed_dist.watch.notes import to_json, write_error, write_private
from seed_dist.watch.stacks import dumps_on_signal
from seed_dist.watch.watchdog import PLAN, Plan, heartbeat_file, stack_file

_SHARED_MEMORY = Path("/dev/shm")
# Time-out of a phase in time-outs of a collective. Below 1 where ranks wait for each other: the watchdog, which knows
# who hangs, comes before the errors of those who wait. A reader names a read that hangs before `data` is over.
_SHARES = {
    "start": 2.0, "load": 2.0, "data": 0.5, "forward": 0.5, "backward": 0.5, "step": 0.5,
    "validate": 6.0, "save": 2.0, "export": 6.0,
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One rank as its node's watchdog has to know it. Ranks of one host and process namespace share a watchdog."""

    rank: int
    pid: int
    host: str
    namespace: str

    @classmethod
    def here(cls, rank: int) -> Member:
        return cls(rank, os.getpid(), socket.gethostname(), str(Path("/proc/self/ns/pid").readlink()))

    def shares_node(self, other: Member) -> bool:
        return (self.host, self.namespace) == (other.host, other.namespace)


def timeouts_s(collective_timeout_s: float, chosen: Mapping[Any, float]) -> dict[str, float]:
    """Seconds without a sign of life after which a rank is taken for hung, by phase."""
    return {phase: chosen.get(phase, share * collective_timeout_s) for phase, share in _SHARES.items()}


def memory_folder(attempt: Path, token: str) -> Path:
    """Where the ranks of a node beat; `token` is the attempt's and equal on all ranks."""
    base = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return base / f"seed_dist-{token}-{attempt.name}"


@contextmanager
def watched(attempt: Path, folder: Path, me: Member) -> Iterator[Heartbeat]:
    """This rank beats in `folder`, dumps its stacks when asked, and leaves a note when an exception ends it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    heartbeat = Heartbeat(heartbeat_file(folder, me.rank))
    with dumps_on_signal(stack_file(folder, me.rank)):
        try:
            yield heartbeat
        except (Exception, KeyboardInterrupt) as error:
            write_error(attempt, me.rank, me.host, heartbeat.place, error)
            raise
        heartbeat.beat("end", heartbeat.place[1])


def start_watchdog(attempt: Path, folder: Path, members: list[Member], limits_s: dict[str, float]) -> None:
    """For the ranks of one node, all of which beat in `folder` already. The watchdog ends with them.

    It has a session of its own, so that neither Ctrl-C nor a launcher that signals its children's group reaches it.
    """
    writes_page = any(member.rank == 0 for member in members)
    pids = {str(member.rank): member.pid for member in members}
    plan = Plan(str(attempt.resolve()), members[0].host, pids, limits_s, writes_page)
    write_private(folder / PLAN, to_json(asdict(plan)))
    subprocess.Popen(
        [sys.executable, "-m", "seed_dist.watch.watchdog", str(folder)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
