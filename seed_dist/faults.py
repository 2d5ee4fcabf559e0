"""Named fault points: places where a test makes this process die, hang or fail on purpose. Inert without
SEED_DIST_FAULT.

`SEED_DIST_FAULT=checkpoint.files_written:1:400:kill` kills rank 1 at that point of step 400. Several, separated by
commas; `*` matches every rank or step. Actions: `kill` (SIGKILL to itself), `exit0` (leaves with success, which no
supervisor may take for success), `raise`, `stop` (SIGSTOP: hangs without dying), `full` (the error of a full disk),
`term` (SIGTERM to itself, as a batch system would send it), `sleep` (half a second: a straggler).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from seed_dist.errors import ConfigError

VARIABLE = "SEED_DIST_FAULT"
ACTIONS = ("kill", "exit0", "raise", "stop", "full", "term", "sleep")


class InjectedFaultError(RuntimeError):
    """What the action `raise` raises: a defect, not an expected error."""


@dataclass(frozen=True)
class Fault:
    """One planned fault; `None` for rank or step means any."""

    point: str
    rank: int | None
    step: int | None
    action: str

    def matches(self, point: str, rank: int, step: int) -> bool:
        return self.point == point and self.rank in (None, rank) and self.step in (None, step)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Faults from `point:rank:step:action`, comma separated; ConfigError names the part that is wrong."""
    return tuple(_parse_fault(item.strip()) for item in text.split(",") if item.strip())


def _parse_fault(item: str) -> Fault:
    parts = item.split(":")
    if len(parts) != 4 or parts[3] not in ACTIONS or not all(part == "*" or part.isdecimal() for part in parts[1:3]):
        raise ConfigError(
            [f"{VARIABLE} has {item!r}; the form is point:rank:step:action with one of {', '.join(ACTIONS)}"]
        )
    rank, step = (None if part == "*" else int(part) for part in parts[1:3])
    return Fault(parts[0], rank, step, parts[3])


_PLANNED = parse_faults(os.environ.get(VARIABLE, ""))


def fault_point(point: str, rank: int, step: int, planned: Sequence[Fault] = _PLANNED) -> None:
    """Do here what was planned for this point; nothing in an ordinary run."""
    for fault in planned:
        if fault.matches(point, rank, step):
            _act(fault.action, point)


def _act(action: str, point: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit0":
        os._exit(0)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)
    elif action == "sleep":
        time.sleep(0.5)
    else:
        raise InjectedFaultError(f"fault injected at {point}")
