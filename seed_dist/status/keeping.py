"""Keeps a run's page new while its training goes on, in a process beside it."""

from __future__ import annotations

import os
from pathlib import Path

from seed_dist.errors import SeedDistError
from seed_dist.obs.followed import Followed
from seed_dist.obs.log import get_logger
from seed_dist.obs.side_process import stop_giving_way
from seed_dist.status.facts import RUN, RunReader
from seed_dist.status.page import PAGE, RELOAD_S, write_page

_FIRST_LOOK_S = 1.0  # until the run has a record


def keep_page(run: Path, process: int, told: int) -> None:
    """Write the page every minute until that process is gone or says through the file `told` that it ends, and then
    once more.

    A run that cannot be read, or a disk that refuses the page, is tried again a minute later.
    """
    followed, listened_to = Followed(process), [told]
    readers: list[RunReader] = []
    has_ended = False
    while followed.lives() and not has_ended:
        is_there = (run / RUN).is_file()
        if is_there:
            _write(run, readers, has_ended=False)
        if followed.wait(RELOAD_S if is_there else _FIRST_LOOK_S, *listened_to):
            has_ended = bool(os.read(told, 16))
            listened_to = []  # a file that has ended says nothing, and could always be read
    stop_giving_way()
    if (run / RUN).is_file():
        _write(run, readers, has_ended=has_ended)


def _write(run: Path, readers: list[RunReader], has_ended: bool) -> None:
    """`readers` holds the reader, once there is one."""
    try:
        if not readers:
            readers.append(RunReader(run))
        write_page(readers[0], has_ended)
    except (OSError, SeedDistError) as error:
        get_logger().warning("%s is not written: %s", run / PAGE, error)
