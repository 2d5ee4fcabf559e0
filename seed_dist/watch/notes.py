"""Death notes: small private files in the attempt's folder, by which the nodes tell each other and the user of a death.

RUN/incidents/attempt-3/rank_00001.error.json    an exception that ended this rank, written by itself
                        node_gpu07.death.json    what the node's watchdog saw: its ranks, and which it suspects
                        rank_00001.stack         stacks of the rank's threads
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.fsio import atomic_file
from seed_dist.redaction import redact

_ERROR, _DEATH = ".error.json", ".death.json"
# What gloo, NCCL and torch say on the ranks that survive when another dies, or when nobody answers.
_LOST_PEER = re.compile(
    r"Connection (?:closed|reset) by|Broken pipe|[Tt]imed out|[Tt]imeout caused pair closure|Socket (?:closed|Timeout)"
    r"|recvBytes|sendBytes|failed to connect|DistBackendError|DistNetworkError|NCCL communicator was aborted"
    r"|unhandled system error|remote process exited|Gloo .*failed|rank 0 ended with"
)
_COLLECTIVE = re.compile(r"distributed_c10d\.py|torch\.distributed|gloo|nccl|RankZeroError", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory", re.IGNORECASE)
_DEVICE = re.compile(r"CUDA error|cuDNN|cublas|NCCL error|uncorrectable ECC|device-side assert", re.IGNORECASE)


@dataclass(frozen=True)
class ErrorNote:
    """An exception that ended a rank. `exit_code`: what its process was going to leave with."""

    rank: int
    host: str
    time_s: float
    step: int
    phase: str
    message: str
    traceback: str
    exit_code: int
    is_expected: bool  # one of seed_dist.errors

    @property
    def kind(self) -> str:
        """`lost` is a rank whose peers went away: another one died first. The others as in `causes`."""
        if _OUT_OF_MEMORY.search(self.message):
            return "oom"
        if _COLLECTIVE.search(self.traceback) and _LOST_PEER.search(self.message):
            return "lost"
        if self.is_expected:
            return "error"
        return "device" if _DEVICE.search(self.message) else "exception"


@dataclass(frozen=True)
class RankState:
    """What a watchdog knew of one of its ranks when it noticed that something was wrong."""

    rank: int
    pid: int
    step: int
    phase: str
    age_s: float  # since its last sign of life
    detail: str = ""
    samples: tuple[int, ...] = ()
    died_s: float | None = None  # seconds since 1970, and how, where that could be seen
    signal: int | None = None
    exit_code: int | None = None
    is_stopped: bool = False  # by SIGSTOP or a debugger
    waits_for_others: bool = False  # its stack is inside a collective


@dataclass(frozen=True)
class DeathNote:
    """What the watchdog of one node saw. `why`: died, hung or told (another node's note, or a rank's own)."""

    host: str
    time_s: float
    why: str
    suspect: int | None  # a rank of this node
    oom_kill: bool  # the kernel killed some process of this node for memory
    ranks: tuple[RankState, ...]
    killed: tuple[int, ...] = ()  # ranks that the watchdog ended


def write_error(folder: Path, rank: int, host: str, place: tuple[str, int], error: BaseException) -> None:
    """Called by the rank itself, `place` is phase and step."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    expected = hasattr(error, "exit_code")
    message = f"{type(error).__name__}: {error}"
    note = ErrorNote(rank, host, time.time(), place[1], place[0], message, lines, code, expected)
    write_private(folder / f"rank_{rank:05d}{_ERROR}", to_json(note))


def write_death(folder: Path, note: DeathNote) -> Path:
    path = folder / f"node_{note.host}{_DEATH}"
    write_private(path, to_json(note))
    return path


def read_errors(folder: Path) -> list[ErrorNote]:
    return [ErrorNote(**values) for path in sorted(folder.glob(f"*{_ERROR}")) if (values := read_json(path))]


def read_deaths(folder: Path) -> list[DeathNote]:
    notes = []
    for path in sorted(folder.glob(f"*{_DEATH}")):
        if values := read_json(path):
            ranks = tuple(RankState(**{**state, "samples": tuple(state["samples"])}) for state in values["ranks"])
            notes.append(DeathNote(**{**values, "ranks": ranks, "killed": tuple(values["killed"])}))
    return notes


def names_of_notes(folder: Path) -> set[str]:
    """All notes of an attempt; of interest while one waits for others' notes."""
    return {name for name in os.listdir(folder) if name.endswith((_ERROR, _DEATH))}  # noqa: PTH208 - names alone


def write_private(path: Path, text: str) -> None:
    """A flushed file that only its owner reads, without secrets: tracebacks and logs may show captions."""
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(redact(text).encode(errors="replace"))


def to_json(value: Any) -> str:
    """Of a dataclass or a dict."""
    fields = value if isinstance(value, dict) else dataclasses.asdict(value)
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """{} for a file that is absent or was cut off."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
