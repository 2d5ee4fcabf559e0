"""Worlds of ranks that may die: a function on each, `world(fn, 2, tmp_path, fault="checkpoint.begun:1:4:kill")`, or
the training command, `Training(arguments, 2, tmp_path, fault).finish()`.

Ranks are forked from a server that has imported torch and DeepSpeed and started nothing, neither process groups nor
threads: so forking it is safe, which it is not for a rank, and a world begins in a fraction of a second. Only processes
started here are ever killed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.forked_preload"])
_DEADLINE_S = 100.0


class Ended(NamedTuple):
    """How a rank ended: exit code (-9: killed), what its function returned, its traceback or an empty text."""

    code: int | None
    value: Any
    error: str


def world(
    fn: Callable[..., Any], size: int, tmp_path: Path, *arguments: Any, fault: str = "", timeout_s: float = 20.0
) -> list[Ended]:
    """Call `fn(comm, *arguments)` on every rank. Collectives give up after `timeout_s`; whoever hangs all the same is
    killed, and its error says so.
    """
    store = tmp_path / f"rendezvous-{time.monotonic_ns()}"
    where = fn.__module__, fn.__qualname__  # not the function: its module must not be imported before the rank is ready
    started = []
    for rank in range(size):
        reader, writer = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_rank, args=(writer, where, (rank, size, str(store), timeout_s, fault), arguments)
        )
        process.start()
        writer.close()
        started.append((process, reader))
    deadline_s = time.monotonic() + _DEADLINE_S
    return [_end(process, reader, deadline_s) for process, reader in started]


def values(ended: list[Ended]) -> list[Any]:
    """What all ranks returned; AssertionError with the first traceback when one failed."""
    errors = [rank.error for rank in ended if rank.error]
    assert not errors, errors[0]
    return [rank.value for rank in ended]


def _end(process: Any, reader: Connection, deadline_s: float) -> Ended:
    value, error = None, "died without a word"
    if not reader.poll(max(0.0, deadline_s - time.monotonic())):
        error = "hangs"
        process.kill()
    else:
        with suppress(EOFError):
            value, error = pickle.loads(reader.recv_bytes())
    process.join()
    return Ended(process.exitcode, value, error)


def _rank(
    writer: Connection, where: tuple[str, str], place: tuple[int, int, str, float, str], arguments: tuple[Any, ...]
) -> None:
    rank, size, store, timeout_s, fault = place
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from seed_dist.dist.launch import open_comm
        from seed_dist.topology import World

        _plan(fault)
        fn = getattr(importlib.import_module(where[0]), where[1])
        with open_comm(World(rank, size, rank, size), timeout_s, f"file://{store}") as comm:
            answer = fn(comm, *arguments), ""
    except BaseException:  # noqa: BLE001 - the test looks at it
        answer = None, traceback.format_exc()
    writer.send_bytes(pickle.dumps(answer))  # by value: torch's own pickler sends handles that die with this process
    writer.close()
    os._exit(1 if answer[1] else 0)


class EndedTraining(NamedTuple):
    """How a rank of a training ended. `code`: negative for a signal. `after_s`: since the first."""

    code: int
    after_s: float
    output: str


class Training:
    """Processes of one training; `finish` waits for them and kills what is left."""

    def __init__(self, arguments: Sequence[str], size: int, folder: Path, fault: str, setup: Callable[[], None] | None):
        number = time.monotonic_ns()
        self._logs = [folder / f"rank-{rank}-{number}.log" for rank in range(size)]
        store = folder / f"rendezvous-{number}"
        self.processes = []
        for rank, log in enumerate(self._logs):
            place = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            place["SEED_DIST_RENDEZVOUS"] = f"file://{store}"
            self.processes.append(
                _CONTEXT.Process(target=_training, args=(place, list(arguments), str(log), fault, setup))
            )
            self.processes[-1].start()

    def pid(self, rank: int) -> int:
        pid = self.processes[rank].pid
        assert pid is not None
        return pid

    def finish(self, timeout_s: float = 90.0) -> list[EndedTraining]:
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
            EndedTraining(process.exitcode or 0, ended_s.get(rank, float("inf")) - first_s, outputs[rank])
            for rank, process in enumerate(self.processes)
        ]


def _training(
    environment: dict[str, str], arguments: list[str], log: str, fault: str, setup: Callable[[], None] | None
) -> None:
    """As `python -m seed_dist.train` with this environment."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from seed_dist.cli import end_process
    from seed_dist.train.__main__ import main

    _plan(fault)
    sys.argv = ["seed_dist.train", *arguments]
    if setup is not None:
        setup()
    end_process(main)


def _plan(fault: str) -> None:
    from seed_dist import faults

    faults.fault_point.__defaults__ = (faults.parse_faults(fault),)  # its module was imported without this plan
