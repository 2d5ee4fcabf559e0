"""Which figures of a journal are final, and so may be sent to where nothing can be deleted.

Steps after the newest checkpoint may be done again by a later attempt, so they wait until a checkpoint, or the end of
the training, settles them. Which records are settled, and in which order, follows from the journal's bytes alone, not
from when it is looked at: a count of records is a position in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from seed_dist.fsio import sha256_bytes
from seed_dist.obs.journal import GOES_BACK, Record, is_replaced, parse_journal

_WITH_FIGURES = ("step", "validation", "skipped", "node")
_NO_FIGURE = ("event", "step", "time_s")
_BATCH_POINTS = 900  # MLflow takes at most 1000 of everything per call


class SettledJournal:
    """A journal that may still grow; `read` takes in what is new.

    `settled` are the records with figures in order. When even settled ones were gone back from, which takes a damaged
    checkpoint, they are taken out and `generation` counts up: what was sent then is to be sent anew elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.settled: list[Record] = []
        self.generation = 0
        self.attempts: list[Record] = []  # the starts
        self.identity: str | None = None  # of this journal among those of equal recipes: hash of its first line
        self.last: Record | None = None
        self._path = path
        self._pending: list[Record] = []
        self._position = 0
        self._hash, self._hashed = hashlib.sha256(), 0  # of the first so many settled records

    def read(self) -> None:
        """Take in the lines that were completed since the last time."""
        text, self._position = complete_lines(self._path, self._position)
        if self.identity is None and text:
            self.identity = sha256_bytes(text.partition(b"\n")[0])[:16]
        for record in parse_journal(text.decode("utf-8", errors="replace")):
            self._take(record)

    def digest(self, count: int) -> str:
        """Of the first `count` settled records: two journals with the same digest have told the same so far."""
        if count < self._hashed:
            self._hash, self._hashed = hashlib.sha256(), 0
        for record in self.settled[self._hashed : count]:
            self._hash.update(json.dumps(record, sort_keys=True).encode())
        self._hashed = count
        return self._hash.hexdigest()[:16]

    @property
    def is_finished(self) -> bool:
        return self.last is not None and self.last["event"] == "finished"

    def _take(self, record: Record) -> None:
        event, step = record["event"], record["step"]
        self.last = record
        if event == "start":
            self.attempts.append(record)
        if event in GOES_BACK:
            if any(is_replaced(earlier, record) for earlier in self.settled):
                self.generation += 1
                self._hash, self._hashed = hashlib.sha256(), 0
                self.settled = [earlier for earlier in self.settled if not is_replaced(earlier, record)]
            self._pending = [earlier for earlier in self._pending if not is_replaced(earlier, record)]
        if event in _WITH_FIGURES:
            self._pending.append(record)
        if event in ("checkpoint", "finished", *GOES_BACK):  # who goes back to a step has its state on the disk
            self.settled += [earlier for earlier in self._pending if earlier["step"] <= step]
            self._pending = [earlier for earlier in self._pending if earlier["step"] > step]


def complete_lines(path: Path, position: int) -> tuple[bytes, int]:
    """Whole lines behind byte `position`, and the position behind them; a line that is being written has to wait."""
    if not path.is_file():
        return b"", position
    with path.open("rb") as file:
        file.seek(position)
        text = file.read()
    complete = text[: text.rfind(b"\n") + 1]
    return complete, position + len(complete)


def points(record: Record) -> Iterator[tuple[str, float, int, int]]:
    """The figures of one record as (name, value, milliseconds since 1970, step); all but a step's get a prefix."""
    if record["event"] not in _WITH_FIGURES:
        return
    prefix = "" if record["event"] == "step" else f"{record['event']}/"
    time_ms = int(float(record.get("time_s", 0)) * 1000)
    for name, value in record.items():
        if name not in _NO_FIGURE and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value), time_ms, int(record["step"])


def in_batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records in groups of as many points as MLflow takes at once."""
    batch: list[Record] = []
    count = 0
    for record in records:
        size = sum(1 for _ in points(record))
        if batch and count + size > _BATCH_POINTS:
            yield batch
            batch, count = [], 0
        batch.append(record)
        count += size
    if batch:
        yield batch
