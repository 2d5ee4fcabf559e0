"""Going back to an earlier checkpoint, and on from there with other data: what a loss spike and a collapse ask for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint
from seed_dist.dist.comm import on_main
from seed_dist.errors import CheckpointError, TrainingError
from seed_dist.train.run import Run
from seed_dist.train.saving import LAST_PATIENCE_S, wait_for_save
from seed_dist.train.state import TrainState

Cause = Literal["spike", "collapse"]
_WORDS: dict[Cause, str] = {"spike": "the loss has a spike", "collapse": "the codebook has collapsed"}
_LOG = logging.getLogger("seed_dist")


def roll_back(run: Run, begin: int, cause: Cause) -> bool:
    """Go back to the newest checkpoint of at most `begin` steps, and on from there with the batches that come next.

    False when there is no such checkpoint: then training goes on as it is. TrainingError when it was done too often.
    """
    state, comm, limit = run.state, run.engine.comm, run.training.max_rollbacks
    if not wait_for_save(run, LAST_PATIENCE_S):  # which is the newest must not depend on how fast a disk is
        raise CheckpointError(
            f"{_WORDS[cause]} at step {state.step}, and a checkpoint is still being written after "
            f"{LAST_PATIENCE_S:.0f} s; the disk of {run.saver.folder} does not answer. Earlier checkpoints are intact."
        )
    run.heartbeat.beat("load", state.step)
    path = _checkpoint_before(run, begin)
    if path is None:
        nowhere = f"step {state.step}: {_WORDS[cause]}, and there is no checkpoint to go back to"
        on_main(comm, lambda: _LOG.warning("%s", nowhere))
        return False
    if state.rollbacks >= limit:
        raise TrainingError(
            f"{_WORDS[cause]} at step {state.step}, and training went back {limit} times already, which is "
            "max_rollbacks. Lower the learning rate or look at the data; spike_deviations=0 and on_collapse=warn go on "
            "regardless."
        )
    back = TrainState.from_dict(load_checkpoint(path, run.engine))
    run.saver.go_back(back.step)
    first, last = back.batch, state.batch - 1
    back.batch_offset, back.rollbacks = state.batch - back.step, state.rollbacks + 1
    where = {f"{cause}_step": state.step}
    run.journal.write("rollback", back.step, **where, first_batch_left_out=first, last_batch_left_out=last)
    text = (
        f"step {state.step}: {_WORDS[cause]}. Going back to step {back.step}; batches {first} to {last} are left "
        f"out ({back.rollbacks} of {limit} times)"
    )
    on_main(comm, lambda: _LOG.warning("%s", text))
    run.state, run.stage.memory = back, back.stage_memory
    return True


def _checkpoint_before(run: Run, begin: int) -> Path | None:
    """Not one that was saved because of a stop, if it can be helped: a run that was not stopped does not have it."""
    every = run.training.checkpoint_every
    regular = newest_checkpoint(run.saver.folder, run.engine.comm, lambda step: step <= begin and step % every == 0)
    return regular or newest_checkpoint(run.saver.folder, run.engine.comm, lambda step: step <= begin)
