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

    It would write that anyway when this process is gone, but batch systems clear away what a job leaves behind.
    """
    page = _start(run) if wanted and rank == 0 else None
    try:
        yield
    finally:
        if page is not None and page.stdin is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                page.stdin.write(b"end\n")
                page.stdin.close()
                page.wait(_LAST_PAGE_S)


def _start(run: Path) -> subprocess.Popen[bytes] | None:
    return start_side_process(
        "seed_dist.status", [str(run), "--follow", str(os.getpid())], run / LOG, stdin=subprocess.PIPE
    )
