"""Whether a job that has ended goes back into the queue: a function of its exit code and of the attempts so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seed_dist.cli import EXIT_STOPPED
from seed_dist.watch.attempts import Attempt

_EXPECTED = range(2, 8)  # exit codes of seed_dist.errors: the same command would fail in the same way
_INTERRUPTED = 130
_FIRST_SIGNAL = 128
_SAME_STEP = 3  # deaths in a row
_SAME_CHECKPOINT = 5
_OOM = 2
_WITHOUT_RECORD = 3  # restarts of a job whose failing command keeps no record of attempts
_GOOD = ("finished", "limit")


@dataclass(frozen=True)
class Ending:
    """What is known of the job besides its attempts. `budget`: deaths of the run that are allowed in all."""

    exit_code: int
    batch_state: str = ""
    restarts: int = 0
    budget: int = 20


@dataclass(frozen=True)
class Verdict:
    action: Literal["done", "requeue", "stop"]
    reason: str

    def exit_code(self, ending: Ending) -> int:
        """For scripts: 0 done, 75 requeue, otherwise the job's own code, which is never 0 when something is wrong."""
        if self.action == "requeue":
            return EXIT_STOPPED
        return 0 if self.action == "done" else ending.exit_code if ending.exit_code not in (0, EXIT_STOPPED) else 1


def decide(ending: Ending, attempts: Sequence[Attempt]) -> Verdict:
    """`attempts`: of the run that was under way, oldest first; empty when the job's failing command was no training."""
    last = attempts[-1] if attempts else None
    if last is None or last.outcome in _GOOD:
        return _without_attempt(ending)
    if ending.exit_code == EXIT_STOPPED or last.outcome == "stopped":
        return Verdict("requeue", "it was asked to stop and has saved; that costs no budget")
    if ending.batch_state == "CANCELLED" or ending.exit_code == _INTERRUPTED:
        return Verdict("stop", "somebody cancelled it")
    if ending.batch_state == "PREEMPTED":
        return Verdict("requeue", "preempted; that costs no budget")
    kind = "oom" if ending.batch_state == "OUT_OF_MEMORY" else last.kind or "unknown"
    if kind == "error" or (last.outcome == "unknown" and ending.exit_code in _EXPECTED):
        return Verdict("stop", "the same command would fail in the same way; the message says what to change")
    return _by_history(kind, ending, [attempt for attempt in attempts if attempt.outcome not in (*_GOOD, "stopped")])


def _by_history(kind: str, ending: Ending, deaths: list[Attempt]) -> Verdict:
    kinds = [*(attempt.kind for attempt in deaths[:-1]), kind]
    if len(kinds) >= _OOM and set(kinds[-_OOM:]) == {"oom"}:
        return Verdict("stop", f"out of memory {_OOM} times in a row: more memory or a smaller micro-batch is needed")
    steps = [attempt.step for attempt in deaths[-_SAME_STEP:]]
    if len(steps) == _SAME_STEP and steps[0] is not None and len(set(steps)) == 1:
        return Verdict("stop", f"{_SAME_STEP} deaths at step {steps[0]} and no progress: {kind}")
    saved = [attempt.saved_step for attempt in deaths[-_SAME_CHECKPOINT:]]
    if len(saved) == _SAME_CHECKPOINT and len(set(saved)) == 1:
        return Verdict("stop", f"{_SAME_CHECKPOINT} deaths and no checkpoint after step {saved[0]}: {kind}")
    if len(deaths) > ending.budget:
        return Verdict("stop", f"{len(deaths)} deaths, and the budget is {ending.budget}")
    return Verdict("requeue", f"death {len(deaths)} of at most {ending.budget}: {kind}")


def _without_attempt(ending: Ending) -> Verdict:
    if ending.exit_code == 0:
        return Verdict("done", "all has been done")
    if ending.exit_code == EXIT_STOPPED:
        return Verdict("requeue", "it was asked to stop and has saved; that costs no budget")
    is_from_outside = ending.batch_state in ("NODE_FAIL", "PREEMPTED") or ending.exit_code > _FIRST_SIGNAL
    if is_from_outside and ending.exit_code != _INTERRUPTED and ending.restarts < _WITHOUT_RECORD:
        return Verdict("requeue", "ended from outside")
    return Verdict("stop", f"exit code {ending.exit_code}; the message is above")
