"""Requeue or stop: the whole decision as a table."""

from __future__ import annotations

import pytest

from seed_dist.watch.attempts import Attempt
from seed_dist.watch.verdict import Ending, decide

FINISHED, LIMIT, STOPPED = (Attempt(1, outcome) for outcome in ("finished", "limit", "stopped"))
UNKNOWN = Attempt(1, "unknown")


def died(kind: str, *steps: int, saved: int | None = None) -> list[Attempt]:
    """Deaths at these steps, each with a checkpoint just before it unless `saved` says otherwise."""
    return [Attempt(i, "died", kind, step, step if saved is None else saved) for i, step in enumerate(steps)]


@pytest.mark.parametrize(
    ("attempts", "exit_code", "state", "action", "code", "word"),
    [
        # How a job should end.
        ([FINISHED], 0, "", "done", 0, "done"),
        ([LIMIT], 0, "", "done", 0, "done"),
        ([], 0, "", "done", 0, "done"),
        # Asked to stop, or preempted: whatever came before.
        ([STOPPED], 75, "", "requeue", 75, "no budget"),
        ([*died("killed", *range(50)), STOPPED], 75, "", "requeue", 75, "no budget"),
        ([*died("killed", *range(50)), UNKNOWN], 143, "PREEMPTED", "requeue", 75, "no budget"),
        ([], 75, "", "requeue", 75, "no budget"),
        # Success without having finished is none.
        (died("left", 5), 0, "", "requeue", 75, "left"),
        ([UNKNOWN], 0, "", "requeue", 75, "unknown"),
        ([*died("left", 5, 5, 5)], 0, "", "stop", 1, "step 5"),
        # What may pass.
        *((died(kind, 5), 1, "", "requeue", 75, kind) for kind in ("killed", "crash", "hang", "network", "device")),
        ([UNKNOWN], 1, "NODE_FAIL", "requeue", 75, "unknown"),
        (died("exception", 5), 1, "", "requeue", 75, "death 1"),
        # What happens again and again.
        (died("exception", 5, 5), 1, "", "requeue", 75, "death 2"),
        (died("exception", 5, 5, 5), 1, "", "stop", 1, "3 deaths at step 5"),
        (died("exception", 5, 5, 6), 1, "", "requeue", 75, "death 3"),
        (died("killed", 5, 7, 6, 9, 8, saved=4), 137, "", "stop", 137, "no checkpoint after step 4"),
        (died("killed", *range(20)), 137, "", "requeue", 75, "death 20"),
        (died("killed", *range(21)), 137, "", "stop", 137, "budget"),
        # Memory: one more try, also when only the batch system knows.
        (died("oom", 5), 137, "", "requeue", 75, "oom"),
        (died("oom", 5, 9), 137, "", "stop", 137, "memory"),
        ([*died("oom", 5), *died("killed", 9)], 137, "OUT_OF_MEMORY", "stop", 137, "memory"),
        ([*died("oom", 5), *died("killed", 7), *died("oom", 9)], 137, "", "requeue", 75, "oom"),
        # What a user has to change.
        (died("error", 5), 7, "", "stop", 7, "same command"),
        ([UNKNOWN], 2, "", "stop", 2, "same command"),
        ([FINISHED], 3, "", "stop", 3, "exit code 3"),  # the encoding after a training
        ([], 2, "", "stop", 2, "exit code 2"),
        # Somebody wanted it so.
        (died("killed", 5), 143, "CANCELLED", "stop", 143, "cancelled"),
        (died("exception", 5), 130, "", "stop", 130, "cancelled"),
        # Commands that keep no record of attempts.
        ([FINISHED], 137, "", "requeue", 75, "outside"),
        ([], 1, "NODE_FAIL", "requeue", 75, "outside"),
    ],
)
def test_verdict(attempts: list[Attempt], exit_code: int, state: str, action: str, code: int, word: str) -> None:
    ending = Ending(exit_code, state)
    verdict = decide(ending, attempts)
    assert verdict.action == action, verdict
    assert verdict.exit_code(ending) == code
    assert word in verdict.reason


def test_a_command_without_a_record_is_not_restarted_for_ever() -> None:
    assert [decide(Ending(137, restarts=n), []).action for n in (0, 2, 3)] == ["requeue", "requeue", "stop"]
