"""What a journal has said so far, thinned, so that 200,000 lines cost as little as 2,000; reading on costs what is new.

Step lines are by far the most. Of many that are read at once only every n-th is parsed, and curves keep a few hundred
means of neighbours. All other events are kept.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import IO

from seed_dist.obs.journal import GOES_BACK, Record, is_replaced, parse_journal

POINTS = 240  # of a curve at least, once there were so many; twice as many at most
RECENT_STEPS = 200  # logged steps that rates are taken from
_STEP_LINE = b'{"event": "step"'  # how the journal begins one
_BLOCK_BYTES, _PARSED_BYTES, _TAIL_BYTES = 8 << 20, 2 << 20, 128 << 10
DIED = "ended without a word"  # no event of the journal: noticed when the next attempt begins
_NOT_FIGURES = frozenset({"event", "step", "time_s", "seconds", "validation_samples"})
_ROUTINE = frozenset({"data", "validation", "finished", "checkpoint"})


class Curve:
    """Points in the order of steps, each the mean of `width` neighbours; `width` doubles when they become too many."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._open: list[tuple[float, float]] = []
        self.width = 1

    def add(self, x: float, y: float) -> None:
        self._open.append((x, y))
        if len(self._open) < self.width:
            return
        self._points.append(_mean(self._open))
        self._open = []
        if len(self._points) == 2 * POINTS:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, 2 * POINTS, 2)]
            self.width *= 2

    def cut(self, after: float) -> None:
        """Forget what comes after that step: training did it again."""
        self._points = [point for point in self._points if point[0] <= after]
        self._open = [point for point in self._open if point[0] <= after]

    @property
    def points(self) -> list[tuple[float, float]]:
        return [*self._points, *([_mean(self._open)] if self._open else [])]

    @property
    def xs(self) -> list[float]:
        return [x for x, _ in self.points]

    @property
    def ys(self) -> list[float]:
        return [y for _, y in self.points]


class History:
    """A journal, read as far as it went at the last `read_on`.

    `curves` by name of the figure, those of validations as `validation/NAME`. `recent`: the last logged steps of the
    present attempt; `earlier`: those of the one before, as far as they stand. `events`: every record in order of
    writing but steps, skipped steps and validations.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._position = 0
        self._steps_seen = 0
        self._passed_over = b""
        self.curves: dict[str, Curve] = {}
        self.events: list[Record] = []
        self.recent: deque[Record] = deque(maxlen=RECENT_STEPS)
        self.earlier: list[Record] = []
        self.validation: Record | None = None
        self.checkpoint: Record | None = None
        self.skipped_steps: list[int] = []
        self.last: Record | None = None  # of any kind

    def read_on(self) -> None:
        """Take in what was appended; a line that is still being written waits. An absent journal says nothing."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            size_bytes = file.seek(0, 2)
            if size_bytes < self._position:  # another journal now lies there
                self._forget()
            stride = max(1, (size_bytes - self._position) // _PARSED_BYTES)
            while self._position < size_bytes and self._read_block(file, size_bytes, stride):
                pass

    def _read_block(self, file: IO[bytes], size_bytes: int, stride: int) -> bool:
        """False where only the beginning of a line is left."""
        before_tail = size_bytes - _TAIL_BYTES - self._position
        is_tail = before_tail <= 0
        file.seek(self._position)
        block = file.read(_BLOCK_BYTES if is_tail else min(_BLOCK_BYTES, before_tail))
        if not is_tail:
            block += file.readline()
        complete = block[: block.rfind(b"\n") + 1]
        for line in complete.splitlines():
            if line.startswith(_STEP_LINE):
                self._steps_seen += 1
                if not is_tail and self._steps_seen % stride:
                    self._passed_over = line
                    continue
            for record in parse_journal(line.decode("utf-8", errors="replace")):
                self._take(record)
        self._position += len(complete)
        return bool(complete)

    def _take(self, record: Record) -> None:
        event, step = record["event"], int(record["step"])
        if event == "start":
            self._note_death()
        if event in GOES_BACK:
            self._cut(record)
        if event == "step":
            self.recent.append(record)
            self._draw(record, "")
        elif event == "validation":
            self.validation = record
            self._draw(record, "validation/")
        elif event == "skipped":
            self.skipped_steps.append(step)
        else:
            self.events.append(record)
        if event == "checkpoint":
            self.checkpoint = record
            self.curves.setdefault("checkpoint_s", Curve()).add(step, saving_s(record) or 0.0)
        self.last, self._passed_over = record, b""

    def _note_death(self) -> None:
        """An attempt that ends as it should says so, or ends with a save."""
        for record in parse_journal(self._passed_over.decode("utf-8", errors="replace")):
            self.last = record
        if self.last is not None and self.last["event"] not in ("stop", "finished", "checkpoint"):
            self.events.append({"event": DIED, "step": self.last["step"], "time_s": self.last["time_s"]})

    def _draw(self, record: Record, prefix: str) -> None:
        for name, value in figures(record).items():
            self.curves.setdefault(f"{prefix}{name}", Curve()).add(record["step"], value)

    def _cut(self, by: Record) -> None:
        step = int(by["step"])
        if self.validation is not None and is_replaced(self.validation, by):
            self.validation = None
        for curve in self.curves.values():
            curve.cut(step)
        self.earlier = [record for record in self.recent if record["step"] <= step] or self.earlier
        self.recent.clear()
        self.skipped_steps = [skipped for skipped in self.skipped_steps if skipped <= step]

    @property
    def starts(self) -> list[Record]:
        return [record for record in self.events if record["event"] == "start"]

    @property
    def incidents(self) -> list[Record]:
        """What does not happen in a training that nothing befalls, in order; first starts are none."""
        return [record for record in self.events if record["event"] not in ("start", *_ROUTINE)]


def figures(record: Record) -> dict[str, float]:
    """The numbers of a record that are measured."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_FIGURES
    }


def saving_s(checkpoint: Record) -> float | None:
    """How long it took: of a save in the background the time of writing, else the time that training stood still."""
    seconds = checkpoint.get("written_s", checkpoint.get("seconds"))
    return None if seconds is None else float(seconds)


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
