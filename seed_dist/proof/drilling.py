"""What a cluster does to a training, done on purpose to a tiny one, and whether it came through."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seed_dist.errors import SeedDistError
from seed_dist.obs.journal import JOURNAL, Record, parse_journal
from seed_dist.proof.comparison import compare_runs
from seed_dist.proof.jobs import Job

_LOG = logging.getLogger("seed_dist")
_LOOK_S, _TELL_EVERY_S = 0.2, 10.0
_LET_RUN_STEPS = 20  # before each disturbance


@dataclass(frozen=True)
class Check:
    """One thing that had to happen: what was seen, and what to mend if it was not that."""

    name: str
    passed: bool
    seen: str
    mend: str = ""


@dataclass
class Drill:
    """The job that is disturbed, and its run directory; `patience_s` is how long anything may take."""

    job: Job
    run: Path
    last_step: int
    patience_s: float
    checks: list[Check] = field(default_factory=list)

    def carry_out(self, rank: int) -> bool:
        """Signal, kill of `rank`, end. False as soon as one has not happened: what follows would say nothing."""
        return self._starts() and self._stops() and self._comes_back() and self._survives_a_kill(rank) and self.ends()

    def compare(self, twin: Path) -> None:
        """Against the run that nobody disturbed."""
        found = compare_runs(twin, self.run, self.last_step, same_world=True)
        seen = f"equal: {', '.join(f'{number:,} {what}' for what, number in found.counts.items())}"
        mend = "Resuming is not exact here: python -m seed_dist.prove_resume finds the first step that differs."
        self.note("equals its undisturbed twin", not found.difference, str(found.difference or seen), mend)

    def note(self, name: str, passed: bool, seen: str, mend: str) -> bool:
        self.checks.append(Check(name, passed, seen, "" if passed else mend))
        _LOG.info("%s  %s: %s", "PASS" if passed else "FAIL", name, seen)
        return passed

    def _starts(self) -> bool:
        started = self._wait("its first steps", lambda: self._step >= _LET_RUN_STEPS)
        mend = "Look at the job's log; squeue says what a waiting job waits for, --patience gives it longer."
        return self.note("starts and trains", started, self._where(), mend)

    def _stops(self) -> bool:
        self.job.signal()
        stopped = self._wait("the ranks to save", lambda: bool(self._events("stop")))
        stop = self._events("stop")[-1] if stopped else {}
        saved = [record["step"] for record in self._events("checkpoint")]
        passed = stopped and stop["reason"] == "SIGUSR1" and stop["step"] in saved
        seen = f"all ranks saved after step {stop['step']} on {stop['reason']}" if stopped else self._where()
        mend = (
            "The ranks did not get SIGUSR1 and save. If the training was over before, use more --steps. In scripts of "
            "your own start it by srun, not in the background of the script: scancel --signal reaches job steps."
        )
        return self.note("SIGUSR1 makes all ranks save", passed, seen, mend)

    def _comes_back(self) -> bool:
        stop = self._events("stop")[-1]
        back = self._wait("the job to come back", lambda: len(self._events("start")) > 1)
        mend = (
            "The job was not requeued. Ask for jobs that may be (#SBATCH --requeue; JobRequeue=0 of the cluster "
            "forbids it unless asked), and look for scontrol requeue in the job's log."
        )
        if not self.note("goes back into the queue", back, self._where(), mend):
            return False
        start = self._events("start")[1]
        self._wait("further steps", lambda: self._step >= min(stop["step"] + _LET_RUN_STEPS, self.last_step))
        again = len(self._events("start"))
        self.note(
            "is requeued once", again == 2, f"{again - 1} further start(s)", "Something starts it twice: its log."
        )
        seen = f"stopped after step {stop['step']}, goes on after step {start['step']}"
        mend = "The attempts see different workspaces, or the save was lost: WORK must be one disk that all nodes see."
        return self.note("goes on at the same step", start["step"] == stop["step"], seen, mend)

    def _survives_a_kill(self, rank: int) -> bool:
        name, killed_after = "a killed rank brings the job back", self._step
        try:
            self.job.kill_rank(rank)
        except SeedDistError as error:
            return self.note(name, False, str(error), "The batch system did not let it be killed; so nothing was seen.")
        back = self._wait("the job to come back", lambda: len(self._events("start")) > 2)
        mend = (
            "A job with a dead rank did not come back. If it ended, submit the same command again: it goes on from the "
            "newest checkpoint. If it hangs, use srun --kill-on-bad-exit=1 and a shorter engine.collective_timeout_s."
        )
        seen = f"rank {rank} killed after step {killed_after}, {self._where()}"
        if not self.note(name, back, seen, mend):
            return False
        # It may be younger than the newest that the journal knew of: rank 0 can die between a commit and its line.
        start, saved = self._events("start")[2], self._saved_before(2)
        step, is_from_it = start["step"], str(start["source"]).endswith(f"step_{start['step']:08d}")
        seen = f"goes on after step {step}; the newest checkpoint told before is of step {saved}"
        mend = "Checkpoints were passed over as damaged: the log names them and what is wrong with them."
        return self.note("loses no checkpoint", is_from_it and step >= saved, seen, mend)

    def ends(self, name: str = "finishes") -> bool:
        """Wait for the last step of the job, whatever happens to it."""
        done = self._wait("the end", lambda: bool(self._events("finished")) and self.job.is_over())
        return self.note(name, done and self._step == self.last_step, self._where(), "Look at the job's log.")

    def _saved_before(self, start: int) -> int:
        """The newest checkpoint that the journal knew of when start number `start` (from 0) was written."""
        records = self._journal
        at = [number for number, record in enumerate(records) if record["event"] == "start"][start]
        return max(record["step"] for record in records[:at] if record["event"] == "checkpoint")

    def _where(self) -> str:
        return f"job {self.job.state()}, step {self._step} of {self.last_step}, {len(self._events('start'))} start(s)"

    def _wait(self, what: str, condition: Callable[[], bool]) -> bool:
        """True when it came; False when it has not in time, or the job is over and it cannot come any more."""
        began_s = told_s = time.monotonic()
        while not condition():
            if self.job.is_over():
                return condition()
            now = time.monotonic()
            if now - began_s > self.patience_s:
                return False
            if now - told_s > _TELL_EVERY_S:
                told_s = now
                _LOG.info("  waiting for %s: %s", what, self._where())
            time.sleep(_LOOK_S)
        return True

    @property
    def _journal(self) -> list[Record]:
        path = self.run / JOURNAL
        return parse_journal(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []

    def _events(self, name: str) -> list[dict[str, Any]]:
        return [record for record in self._journal if record["event"] == name]

    @property
    def _step(self) -> int:
        """The newest step of the newest attempt."""
        return self._journal[-1]["step"] if self._journal else 0
