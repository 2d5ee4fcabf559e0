"""Whether a training lives, without touching what it holds: probing the lock could make a starting training fail."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOCK = ".lock"
_OWNER = re.compile(r"process (\d+) on (\S+)")
_CLOCK_S = 5.0  # clocks of a node and of its file server may differ by so much
_LEAST_SILENCE_S, _SILENT_LINES = 300.0, 20


@dataclass(frozen=True)
class Life:
    """`alive` is None where it cannot be told from here; `why` in words. `was_killed`: it had no time to unlock."""

    alive: bool | None
    why: str
    was_killed: bool = False


def look(run: Path, silent_s: float | None, usual_s: float | None) -> Life:
    """`silent_s`: since the journal's last line; `usual_s`: between two of its lines."""
    try:
        owner = _OWNER.search((run / _LOCK).read_text(errors="replace"))
        written_s = (run / _LOCK).stat().st_mtime
    except OSError:
        return Life(False, "nobody has locked the run")
    if not owner:
        return Life(False, "its lock is free: the last process ended by itself")
    process, host = int(owner[1]), owner[2]
    if host != socket.gethostname():
        return _from_elsewhere(f"process {process} on {host}", silent_s, usual_s)
    if is_running(process, written_s):
        return Life(True, f"process {process} runs on this machine")
    return Life(False, f"process {process} of this machine is gone and has left its lock behind", was_killed=True)


def _from_elsewhere(owner: str, silent_s: float | None, usual_s: float | None) -> Life:
    if silent_s is None:
        return Life(None, f"{owner} has locked it and written nothing yet")
    if silent_s <= max(_LEAST_SILENCE_S, _SILENT_LINES * (usual_s or 0.0)):
        return Life(True, f"{owner} wrote {silent_s:.0f} s ago")
    return Life(None, f"{owner} has been silent for {silent_s:.0f} s: dead, hung, or in a long save")


def is_running(process: int, since_s: float) -> bool:
    """Whether that process was there at `since_s` (seconds since 1970) and still is; numbers are used again."""
    try:
        found = psutil.Process(process)
        return found.create_time() <= since_s + _CLOCK_S and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
