"""The progress line: step, loss, samples per second, time left. Rewritten in place on a terminal, a line now and then
in a log file.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from seed_dist.obs.log import mark_unfinished_line

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 10.0


class Progress:
    """Shows how far a stage is. `enabled` is False on ranks other than 0."""

    def __init__(self, name: str, total: int, start: int, enabled: bool, stream: TextIO | None = None) -> None:
        self._name, self._total, self._start, self._enabled = name, total, start, enabled
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began_s = self._shown_s = time.monotonic()

    def update(self, step: int, loss: float, samples_per_s: float) -> None:
        """Show that `step` steps are done, unless something was shown a moment ago."""
        now = time.monotonic()
        due = now - self._shown_s >= (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        if not self._enabled or not (due or step in (self._start + 1, self._total)):
            return
        self._shown_s = now
        rate = (step - self._start) / max(now - self._began_s, 1e-9)
        text = progress_line(self._name, step, self._total, loss, samples_per_s, (self._total - step) / max(rate, 1e-9))
        if not self._terminal:
            self._stream.write(text + "\n")
        elif step == self._total:
            self._stream.write(f"\r{text}\033[K\n")
        else:
            self._stream.write(f"\r{text}\033[K")
            mark_unfinished_line()
        self._stream.flush()


def progress_line(name: str, step: int, total: int, loss: float, samples_per_s: float, left_s: float) -> str:
    """One line of at most about 90 characters."""
    return (
        f"{name}  step {step}/{total} ({step / total:.0%})  loss {loss:.4g}  {samples_per_s:,.0f} samples/s  "
        f"{format_seconds(left_s)} left"
    )


def format_seconds(seconds: float) -> str:
    """1:02:03, or 02:03 below an hour; days are counted as hours."""
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
