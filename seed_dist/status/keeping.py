"""Keeps a run's page new while its training goes on, in a process beside it."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from seed_dist.errors import SeedDistError
from seed_dist.obs.log import get_logger
from seed_dist.status.facts import RUN, RunReader
from seed_dist.status.liveness import is_running
from seed_dist.status.page import PAGE, RELOAD_S, write_page

_LOOK_EVERY_S = 1.0


def keep_page(run: Path, process: int, told: int) -> None:
    """Write the page every minute until that process is gone or says through the file `told` that it ends, and then
    once more.

    A run that cannot be read, or a disk that refuses the page, is tried again a minute later.
    """
    started_s = time.time()
    readers: list[RunReader] = []
    due_s = 0.0
    has_ended = False
    while is_running(process, started_s) and not has_ended:
        if time.monotonic() >= due_s and (run / RUN).is_file():
            _write(run, readers, has_ended=False)
            due_s = time.monotonic() + RELOAD_S
        has_ended = _hears(told)
    if (run / RUN).is_file():
        _write(run, readers, has_ended=has_ended)


def _hears(told: int) -> bool:
    """Whether anything was said within a second. A file that has ended says nothing."""
    if select.select([told], [], [], _LOOK_EVERY_S)[0]:
        if os.read(told, 16):
            return True
        time.sleep(_LOOK_EVERY_S)
    return False


def _write(run: Path, readers: list[RunReader], has_ended: bool) -> None:
    """`readers` holds the reader, once there is one."""
    try:
        if not readers:
            readers.append(RunReader(run))
        write_page(readers[0], has_ended)
    except (OSError, SeedDistError) as error:
        get_logger().warning("%s is not written: %s", run / PAGE, error)
