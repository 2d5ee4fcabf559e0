"""The parts of a training's start, read from its journal, its attempts and its processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.watch.attempts import attempt_folders, start_of

_PATIENCE_S = 300.0
# So many seconds after the first step something happens; parts of the first start, and of the start after it.
Round = Callable[[float], tuple[dict[str, float], dict[str, float]]]


def parts_of_start(run: Path, attempt: int, since_s: float, step: int, rank_0: psutil.Process) -> dict[str, float]:
    """Seconds of each part of the attempt with this number, which is running, from `since_s` (since 1970) on until it
    had done `step` steps.
    """
    marks = {
        "relaunch": _begin_of(rank_0),
        "imports": start_of(attempt_folders(run)[attempt - 1])["time_s"],
        "load": records(run, "start")[attempt - 1]["time_s"],
        "warm-up": next(record["time_s"] for record in records(run, "step") if record["step"] == step),
    }
    return {
        part: mark - before for (part, mark), before in zip(marks.items(), [since_s, *marks.values()], strict=False)
    }


def _begin_of(process: psutil.Process) -> float:
    """By today's clock: what psutil says is off by up to a second, because the kernel tells the boot's time in whole
    ones."""
    after_boot_s = process.create_time() - psutil.boot_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot_s)


def wait_for_step(run: Path, attempt: int, step: int, log: Path) -> None:
    """Until the attempt with this number has begun and the step is done. TimeoutError with the end of `log`."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while len(records(run, "start")) < attempt or all(record["step"] < step for record in records(run, "step")):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no step {step} in attempt {attempt}: {log.read_text()[-3000:]}")
        time.sleep(0.25)


def records(run: Path, event: str) -> list[dict[str, Any]]:
    """What the run's journal has of one kind."""
    journal = run / JOURNAL
    return [record for record in read_journal(journal) if record["event"] == event] if journal.exists() else []
