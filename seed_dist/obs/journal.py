"""The journal: one JSON object per line, only ever appended to. The source of truth for curves, MLflow and the report.

    {"event": "start",      "step": 400, "world_size": 2, "time_s": ...}     an attempt begins after that many steps
    {"event": "step",       "step": 401, "loss": 2.31, "lr": 0.001, "grad_norm": 0.8, "step_s": 0.1, ...}
    {"event": "validation", "step": 500, "i2t_r1": 0.41, ...}
    {"event": "checkpoint", "step": 500, "path": "step_00000500", "seconds": 0.2}
    {"event": "skipped",    "step": 512, ...}                                gradients were not finite: nothing changed
    {"event": "straggler",  "step": 600, "rank": 3, "own_s_by_rank": [...]}  all wait for that rank
    {"event": "stop",       "step": 700, "reason": "SIGTERM"}   {"event": "finished", "step": 1000}

Units stand in the names; `time_s` is seconds since 1970. Lines are flushed to the disk about once per second and at
every event other than a step. A resumed attempt may repeat steps: readers let the later attempt replace them.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
_SYNC_EVERY_S = 1.0

Record = dict[str, Any]


class Journal:
    """Appends to `RUN/journal.jsonl`. On ranks other than 0 (`path` None) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        self._synced_s = 0.0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(path)
            self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        """One line. Numbers that JSON does not know become null."""
        if self._file is None:
            return
        record = {"event": event, "step": step, "time_s": round(time.time(), 3)}
        record |= {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        if event != "step" or time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Make everything written so far durable."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._synced_s = time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None


def read_journal(path: Path) -> list[Record]:
    """All records of a journal in order of writing, without those that a later attempt replaced.

    An attempt that starts after step s replaces earlier records of steps beyond s. An absent file is an empty journal.
    """
    if not path.is_file():
        return []
    return without_replaced(parse_journal(path.read_text(encoding="utf-8", errors="replace")))


def without_replaced(records: Iterable[Record]) -> list[Record]:
    """Records in order, without those of steps that a later attempt among them did again."""
    kept: list[Record] = []
    for record in records:
        if record["event"] == "start":
            kept = [earlier for earlier in kept if earlier["step"] <= record["step"]]
        kept.append(record)
    return kept


def parse_journal(text: str) -> list[Record]:
    """The records of a journal's text. A torn line, which a crash in the middle of writing leaves, is passed over."""
    return [record for line in text.splitlines() if (record := _parse(line)) is not None]


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record and "step" in record else None


def _plain(value: Any) -> Any:
    """Floats to 7 significant digits, which is what fp32 holds."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _end_torn_line(path: Path) -> None:
    """A crash may have left half a line; the next record must not be glued to it."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
