"""The training command on several ranks that start within a second: forked from a server that has imported everything.

The server has neither a process group nor threads of its own, so forking it is safe, which it is not for a rank.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.forked_preload"])


@dataclass(frozen=True)
class Ended:
    """How a rank ended. `code` as in `Process.exitcode`: negative for a signal. `after_s`: since the first."""

    code: int
    after_s: float
    output: str


class Ranks:
    """Processes of one training; `finish` waits for them and kills what is left."""

    def __init__(self, arguments: Sequence[str], size: int, folder: Path, fault: str, setup: Callable[[], None] | None):
        number = time.monotonic_ns()
        self._logs = [folder / f"rank-{rank}-{number}.log" for rank in range(size)]
        store = folder / f"rendezvous-{number}"
        self.processes = []
        for rank, log in enumerate(self._logs):
            place = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            place["SEED_DIST_RENDEZVOUS"] = f"file://{store}"
            self.processes.append(_CONTEXT.Process(target=_main, args=(place, list(arguments), str(log), fault, setup)))
            self.processes[-1].start()

    def pid(self, rank: int) -> int:
        pid = self.processes[rank].pid
        assert pid is not None
        return pid

    def finish(self, timeout_s: float = 90.0) -> list[Ended]:
        ended_s: dict[int, float] = {}
        deadline = time.monotonic() + timeout_s
        while len(ended_s) < len(self.processes) and time.monotonic() < deadline:
            pending = [process.sentinel for rank, process in enumerate(self.processes) if rank not in ended_s]
            wait(pending, timeout=deadline - time.monotonic())
            for rank, process in enumerate(self.processes):
                if not process.is_alive():
                    ended_s.setdefault(rank, time.monotonic())
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
        first_s = min(ended_s.values(), default=time.monotonic())
        outputs = [log.read_text(errors="replace") if log.exists() else "" for log in self._logs]
        return [
            Ended(process.exitcode or 0, ended_s.get(rank, float("inf")) - first_s, outputs[rank])
            for rank, process in enumerate(self.processes)
        ]


def _main(
    environment: dict[str, str], arguments: list[str], log: str, fault: str, setup: Callable[[], None] | None
) -> None:
    """As `python -m seed_dist.train` with this environment."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from seed_dist import faults
    from seed_dist.cli import end_process
    from seed_dist.train.__main__ import main

    faults.fault_point.__defaults__ = (faults.parse_faults(fault),)  # its module was imported without this plan
    sys.argv = ["seed_dist.train", *arguments]
    if setup is not None:
        setup()
    end_process(main)
