"""Worlds of ranks that may die: `world(fn, 2, tmp_path, fault="checkpoint.begun:1:4:kill")`.

Ranks are forked from a server that has imported torch and DeepSpeed and started nothing, so a world begins in a
fraction of a second. Only processes started here are ever killed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

_PRELOADED = "tests.forked_preload"
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    store = tmp_path / f"rendezvous-{time.monotonic_ns()}"
    where = fn.__module__, fn.__qualname__  # not the function: its module must not be imported before the rank is ready
    started = []
    for rank in range(size):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(
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
        from seed_dist import faults
        from seed_dist.dist.launch import open_comm
        from seed_dist.topology import World

        faults.fault_point.__defaults__ = (faults.parse_faults(fault),)  # its module was imported without this plan
        fn = getattr(importlib.import_module(where[0]), where[1])
        with open_comm(World(rank, size, rank, size), timeout_s, f"file://{store}") as comm:
            answer = fn(comm, *arguments), ""
    except BaseException:  # noqa: BLE001 - the test looks at it
        answer = None, traceback.format_exc()
    writer.send_bytes(pickle.dumps(answer))  # by value: torch's own pickler sends handles that die with this process
    writer.close()
    os._exit(1 if answer[1] else 0)
