"""Several ranks in one test: `run_ranks(fn, 2, tmp_path)` calls `fn(comm, *arguments)` in 2 processes that talk over
gloo.

Processes are spawned, never forked (gloo threads do not survive a fork), and meet at a file, because ports can be
taken. `fn` must stand at the top level of an importable module. Only processes started here are ever killed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from seed_dist.topology import World

ROOT = Path(__file__).resolve().parent.parent
# Below pytest's own limit, so that a rank that hangs is named. A machine that is busy otherwise may need more of both.
TIMEOUT_S = float(os.environ.get("SEED_DIST_TEST_TIMEOUT_S", "160"))


def run_ranks(
    fn: Callable[..., Any], size: int, tmp_path: Path, *arguments: Any, timeout_s: float = TIMEOUT_S
) -> list[Any]:
    """What `fn(comm, *arguments)` returned on each rank, in rank order. AssertionError with the first traceback that
    came.
    """
    context = multiprocessing.get_context("spawn")
    store = tmp_path / f"rendezvous-{time.monotonic_ns()}"
    processes, readers = [], []
    for rank in range(size):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_rank_main, args=(writer, fn, rank, size, str(store), timeout_s, arguments))
        process.start()
        writer.close()
        processes.append(process)
        readers.append(reader)
    try:
        return _collect(readers, timeout_s)
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(readers: Sequence[Connection], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    pending = {reader: rank for rank, reader in enumerate(readers)}
    while pending:
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        assert ready, f"ranks {sorted(pending.values())} have not answered after {timeout_s:.0f} s"
        for reader in ready:
            assert isinstance(reader, Connection)
            rank = pending.pop(reader)
            try:
                problem, value = pickle.loads(reader.recv_bytes())
            except EOFError:
                raise AssertionError(f"rank {rank} died without a word") from None
            assert problem is None, f"rank {rank} failed:\n{problem}"
            results[rank] = value
    return [results[rank] for rank in range(len(readers))]


def _rank_main(
    writer: Connection, fn: Callable[..., Any], rank: int, size: int, store: str, timeout_s: float, arguments: Any
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from seed_dist.dist.launch import open_comm

        with open_comm(World(rank, size, rank, size), timeout_s, f"file://{store}") as comm:
            answer: tuple[str | None, Any] = None, fn(comm, *arguments)
    except BaseException:  # noqa: BLE001 - the traceback is what the test shows
        answer = traceback.format_exc(), None
    writer.send_bytes(
        pickle.dumps(answer)
    )  # by value: torch's own pickler would send handles that die with this process
    writer.close()


def start_module_ranks(
    module: str, arguments: Sequence[str], size: int, tmp_path: Path, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Start `python -m module arguments` as `size` ranks, as torchrun would but meeting at a file."""
    store = tmp_path / f"rendezvous-{time.monotonic_ns()}"
    processes = []
    for rank in range(size):
        position = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "SEED_DIST_RENDEZVOUS": f"file://{store}",
            "OMP_NUM_THREADS": "1",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **position, **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes: Sequence[subprocess.Popen[str]], timeout_s: float = TIMEOUT_S) -> list[tuple[int, str]]:
    """Exit code and output of each process; those still alive after `timeout_s` are killed, which shows as code -9."""
    deadline = time.monotonic() + timeout_s
    results = []
    for process in processes:
        try:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        results.append((process.returncode, output))
    return results
