"""The progress bar of long commands: done, rate, remaining time, on standard error."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_LOG_EVERY_S = 10.0  # in a log file every refresh is a line


def progress_bar(total: int, done: int, description: str, unit: str) -> Any:
    """A tqdm bar of `total` samples, `done` of which an earlier run finished: the rate is that of this run."""
    interval = 0.2 if sys.stderr.isatty() else _LOG_EVERY_S
    return tqdm(total=total, initial=done, desc=description, unit=f" {unit}", mininterval=interval, dynamic_ncols=True)
