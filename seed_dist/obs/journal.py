"""The journal: one JSON object per line, only ever appended to. The source of truth for curves, MLflow and the report.

    {"event": "start",      "step": 400, "world_size": 2, "time_s": ...}     an attempt begins after that many steps
    {"event": "data",       "step": 400, "splits": {"train": {"samples": 20000, "share": 1.0, "passes": 6.4}}}
    {"event": "step",       "step": 401, "samples_digest": "8e2d...", "loss": 2.31, "lr": 0.001, "step_s": 0.1, ...}
    {"event": "validation", "step": 500, "i2t_r1": 0.41, ...}
    {"event": "checkpoint", "step": 500, "path": "step_00000500", "blocked_s": 0.01, ...}        complete on the disk
    {"event": "skipped",    "step": 512, ...}                                gradients were not finite: nothing changed
    {"event": "rollback",   "step": 500, "spike_step": 620, ...}             to the state after 500 steps
    {"event": "collapse",   "step": 620, "perplexity": 3.1, "remedies": [...], ...}   of the codebook; what was done
    {"event": "straggler",  "step": 600, "rank": 3, "own_s_by_rank": [...]}  all wait for that rank
    {"event": "stop",       "step": 700, "reason": "SIGTERM"}   {"event": "finished", "step": 1000}

Units stand in the names; `time_s` is seconds since 1970 and never goes back: within an attempt it follows a clock that
nobody can set, and an attempt begins no earlier than the one before it ended. `samples_digest` tells which samples a
step took (`seed_dist.order.digest`). Secrets in texts are hidden. Lines are flushed to the disk about once per second
and at every event other than a step. A resumed attempt may repeat steps, and one that went back does: readers let the
later ones replace them.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seed_dist.redaction import redact

JOURNAL = "journal.jsonl"
GOES_BACK = ("start", "rollback")  # events after which steps are done again
_SYNC_EVERY_S = 1.0
_LOG = logging.getLogger("seed_dist")
_TAIL_BYTES = 1 << 16

Record = dict[str, Any]


class Journal:
    """Appends to `RUN/journal.jsonl`. On ranks other than 0 (`path` None) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        self._synced_s, self._is_full = 0.0, False
        self._unwritten = bytearray()
        self._clock_offset_s = time.time() - _uptime_s()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(path)
            # The clock may have been set back since the last record, or be another machine's.
            self._clock_offset_s = max(self._clock_offset_s, _last_time_s(path) - _uptime_s())
            self._file = path.open("ab", buffering=0)

    def write(self, event: str, step: int, **values: Any) -> None:
        """One line. Numbers that JSON does not know become null."""
        if self._file is None:
            return
        record = {"event": event, "step": step, "time_s": round(self._clock_offset_s + _uptime_s(), 3)}
        record |= {name: _plain(value) for name, value in values.items()}
        self._unwritten += json.dumps(record, allow_nan=False).encode() + b"\n"
        if event != "step" or time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Make everything so far durable. While the disk is full it stays in memory, and is tried again with the next
        line: training goes on.
        """
        try:
            self._write_out()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not self._is_full:
                _LOG.warning("the journal cannot be written (%s); its lines are kept in memory", error.strerror)
            self._is_full = True

    def _write_out(self) -> None:
        if self._file is None:
            return
        while self._unwritten:
            del self._unwritten[: self._file.write(self._unwritten)]
        os.fsync(self._file.fileno())
        self._synced_s, self._is_full = time.monotonic(), False

    def close(self) -> None:
        """Raises OSError when the disk is still full."""
        if self._file is not None:
            self._write_out()
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
        if record["event"] in GOES_BACK:
            kept = [earlier for earlier in kept if not is_replaced(earlier, record)]
        kept.append(record)
    return kept


def is_replaced(earlier: Record, by: Record) -> bool:
    """Whether the attempt or rollback `by` does again what `earlier` tells of: later steps, and the validation before
    the first one, which every attempt from scratch begins with.
    """
    step: int = by["step"]
    return bool(earlier["step"] > step or (by["event"] == "start" and step == 0 and earlier["event"] == "validation"))


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
    """Floats to 9 significant digits, which tell any two fp32 numbers apart; texts without secrets."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _uptime_s() -> float:
    """Seconds that no one can set: since the machine was started, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _last_time_s(path: Path) -> float:
    """`time_s` of the last record; 0 where there is none."""
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        records = parse_journal(file.read().decode("utf-8", errors="replace"))
    return float(records[-1].get("time_s", 0.0)) if records else 0.0


def _end_torn_line(path: Path) -> None:
    """A crash may have left half a line; the next record must not be glued to it."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
