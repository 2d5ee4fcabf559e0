"""Has RUN/live.html kept new beside a training, by `python -m seed_dist.status RUN --follow PID`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seed_dist.obs.side_process import start_side_process

LOG = "live_page.log"
_LAST_PAGE_S = 3.0


@contextmanager
def kept_live_page(run: Path, wanted: bool, rank: int) -> Iterator[None]:
    """While the block runs; when it ends, in whatever way, the process is told and given three seconds for the last
    page.

    It would write that anyway when this process is gone, but batch systems clear away what a job leaves behind. If it
    has not got the processor for as long as that, others keep the machine busy: one that need not wait for idle time
    takes its place.
    """
    page = _start(run) if wanted and rank == 0 else None
    try:
        yield
    finally:
        if page is not None and not _writes_last(page):
            page.kill()
            hungry = _start(run, is_idle=False)
            if hungry is not None:
                _writes_last(hungry)


def _start(run: Path, is_idle: bool = True) -> subprocess.Popen[bytes] | None:
    words = [str(run), "--follow", str(os.getpid())]
    return start_side_process("seed_dist.status", words, run / LOG, stdin=subprocess.PIPE, is_idle=is_idle)


def _writes_last(page: subprocess.Popen[bytes]) -> bool:
    """Tell it that training has ended; whether it was done within its time."""
    assert page.stdin is not None, "it was started with a pipe"
    try:
        with suppress(OSError):  # it is gone already
            page.stdin.write(b"end\n")
            page.stdin.close()
        page.wait(_LAST_PAGE_S)
    except subprocess.TimeoutExpired:
        return False
    return True
