"""What the loop does about checkpoints between steps: start a save, see how the one under way ended, wait for it when
nothing would follow. Called by all ranks together.
"""

from __future__ import annotations

import math
import time

from seed_dist.dist.checkpoint_saver import Flags, SaveResult
from seed_dist.errors import CheckpointError
from seed_dist.train.run import Run

# A save that comes due while the one before is being written waits for it so long, and is left out after that: slow
# disks slow training down a little and visibly, a disk that hangs does not stop it.
_PATIENCE_S = 30.0
# At the end of a run, and before training goes back. Batch scripts ask to stop 300 s before the time limit.
LAST_PATIENCE_S = 240.0
_SLICE_S = 5.0  # of a wait, between signs of life


def settle(run: Run, flags: Flags) -> None:
    """See how the save under way ended, given the flags of all ranks. Costs nothing while none is."""
    result = run.saver.settle(flags)
    if result is not None:
        _tell(run, result)


def save(run: Run, is_last_chance: bool) -> None:
    """Start saving the present position. When a disk refuses it, training goes on with the earlier checkpoints.

    With `is_last_chance` nothing would follow: the save is waited for, and CheckpointError is raised on all ranks when
    it fails.
    """
    began_s = time.monotonic()
    is_free = wait_for_save(run, LAST_PATIENCE_S if is_last_chance else _PATIENCE_S)
    waited_s = time.monotonic() - began_s
    if not is_free:
        reason = f"an earlier checkpoint was still being written after {waited_s:.0f} s"
        run.journal.write("checkpoint_left_out", run.state.step, reason=reason)
        if is_last_chance:
            raise CheckpointError(
                f"the position after step {run.state.step} is not saved: {reason}. Look at the disk of "
                f"{run.saver.folder}; the same command goes on from the newest checkpoint there."
            )
        return
    run.journal.sync()  # lines of steps that no later attempt does again must not be lost
    run.saver.begin(run.state.as_dict())
    if waited_s > 1.0:
        run.journal.write("checkpoint_waited", run.state.step, waited_s=waited_s)
    if is_last_chance and not wait_for_save(run, LAST_PATIENCE_S):
        raise CheckpointError(
            f"the checkpoint of step {run.state.step} is still being written after {LAST_PATIENCE_S:.0f} s; the disk "
            f"of {run.saver.folder} does not answer. Earlier checkpoints are intact."
        )
    if is_last_chance and run.saver.last_problem is not None:
        raise CheckpointError(
            f"the checkpoint of step {run.state.step} could not be written: {run.saver.last_problem}. Earlier "
            "checkpoints are intact; free or mend the disk and run the same command again."
        )


def wait_for_save(run: Run, timeout_s: float) -> bool:
    """Wait until no save is under way; False when one still is after `timeout_s`. Before an error that all ranks raise
    together, and before anything else that needs the newest checkpoint.
    """
    for _ in range(math.ceil(timeout_s / _SLICE_S)):  # a number and no clock: equal on all ranks
        if not run.saver.is_busy:
            break
        run.heartbeat.beat("save", run.state.step)
        for result in run.saver.wait(min(timeout_s, _SLICE_S)):
            _tell(run, result)
    return not run.saver.is_busy


def _tell(run: Run, result: SaveResult) -> None:
    if result.problem is not None:
        run.journal.write("checkpoint_failed", result.step, reason=result.problem, retried=result.is_retried)
        return
    run.stop.save_took(result.blocked_s + result.written_s)
    run.journal.write(
        "checkpoint",
        result.step,
        path=result.path.name,
        blocked_s=result.blocked_s,
        written_s=result.written_s,
        size_bytes=result.size_bytes,
    )
