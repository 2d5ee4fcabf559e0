"""How much memory a block of a test takes at most, whatever the tests before it took."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _RESET_PEAK = Path("/proc/self/status"), "5"  # proc(5), /proc/PID/clear_refs


@contextmanager
def taking_at_most(limit_bytes: int) -> Iterator[None]:
    """AssertionError where the block takes more resident memory on top of what it finds."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    found = _bytes("VmRSS")
    yield
    taken = _bytes("VmHWM") - found
    assert taken < limit_bytes, f"{taken / 2**30:.2f} GiB were taken, {limit_bytes / 2**30:.2f} are allowed"


def _bytes(field: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
