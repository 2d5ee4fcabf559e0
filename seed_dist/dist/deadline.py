"""When a batch job must stop by itself so that its last save is done before its time limit.

No setting of the cluster and no option of sbatch is needed for it: the batch system is asked how much time is left.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable

# Kept free for what nobody has measured: the ranks leave, the batch script asks for its requeue, clocks differ.
MARGIN_S = 30.0
# Of a save, until the first one has shown it.
UNKNOWN_SAVE_S = 60.0
# Of the job's time: where a limit is so short that a third of it would not do for saving, nothing would.
_LARGEST_SHARE = 1 / 3
_ANSWER_S = 15.0

_LOG = logging.getLogger("seed_dist")


class Deadline:
    """Compares the time that is left with the time that stopping takes: a step (with whatever is due after it), twice
    the longest save so far, and a margin. Ask it after every step.
    """

    def __init__(self, time_left: Callable[[], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        """`time_left` asks for the seconds until the job is ended; None: unknown or unlimited."""
        self._time_left, self._clock = time_left, clock
        self._limit_s = time_left()
        self._began_s = clock()
        self._asked_s: float | None = None
        self._longest_step_s = 0.0
        self._longest_save_s: float | None = None

    def save_took(self, seconds: float) -> None:
        self._longest_save_s = max(self._longest_save_s or 0.0, seconds)

    @property
    def reserve_s(self) -> float:
        """What must be left of the job's time for one more step to be begun."""
        save_s = UNKNOWN_SAVE_S if self._longest_save_s is None else self._longest_save_s
        reserve_s = MARGIN_S + self._longest_step_s + 2 * save_s
        return reserve_s if self._limit_s is None else min(reserve_s, self._limit_s * _LARGEST_SHARE)

    def is_near(self) -> bool:
        """Whether it is time to save and leave. Before it says so it asks again: limits can be raised, and lowered."""
        now_s = self._clock()
        if self._asked_s is not None:
            self._longest_step_s = max(self._longest_step_s, now_s - self._asked_s)
        self._asked_s = now_s
        if self._limit_s is None or self._left_s(now_s) > self.reserve_s:
            return False
        left_s = self._time_left()
        if left_s is not None:
            self._limit_s = now_s - self._began_s + left_s
        return self._left_s(now_s) <= self.reserve_s

    def _left_s(self, now_s: float) -> float:
        assert self._limit_s is not None
        return self._limit_s - (now_s - self._began_s)


def job_deadline() -> Deadline | None:
    """The deadline of the SLURM job that this process belongs to; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    return None if job is None else Deadline(lambda: _slurm_time_left(job))


def _slurm_time_left(job: str) -> float | None:
    """What squeue says; a controller that does not answer is told of and counts as no limit."""
    command = ["squeue", "--noheader", "--jobs", job, "--format=%L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("the time limit of job %s is not known (%s), so only a signal can stop it in time", job, error)
        return None
    return parse_time_left(answer)


def parse_time_left(text: str) -> float | None:
    """Seconds of squeue's `%L`: [[days-]hours:]minutes:seconds. None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
