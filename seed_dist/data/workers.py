"""Worker processes: tasks in, results out as they finish. Nobody outlives the process that asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from seed_dist.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result, as they finish; in this process when one worker is enough."""
    if min(workers, len(tasks)) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    with process_pool(min(workers, len(tasks))) as pool:
        futures: dict[Future[Result], Task] = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(list(futures)):
                yield futures.pop(future), future.result()  # popped, so that results do not pile up
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died (killed from outside, or out of memory). What was finished is intact: "
                "run the same command again, with a smaller --workers if memory was short."
            ) from error


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that leave when this one does, however it ends. Spawned: a fork would copy locks of running threads."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a pool worker has a parent"
    wait([parent.sentinel])
    os._exit(1)  # nobody is left to hear of an error; what this process was writing stays a partial file
