"""Loss spikes: seen by how far a loss lies above the last ones, answered by going back and leaving their data out.

PaLM (Chowdhery et al. 2022, section 5.1) went back about 100 steps before each of some twenty spikes and left out the
batches around it; none came again, though the same batches did no harm elsewhere. Six standard deviations over the
last 128 losses are OLMo-core's bounds. One odd batch is no spike: several in a row are, because only then has it done
something to the weights that lasts.
"""

from __future__ import annotations

import logging
import statistics
from pathlib import Path

from seed_dist.config import TrainConfig
from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint
from seed_dist.dist.comm import on_main
from seed_dist.errors import CheckpointError, TrainingError
from seed_dist.train.run import Run
from seed_dist.train.saving import LAST_PATIENCE_S, wait_for_save
from seed_dist.train.state import TrainState

# A loss that hardly moves has next to no deviation; a rise of less than 6 x 0.1 % of it never counts.
_LEAST_DEVIATION = 1e-3
_LOG = logging.getLogger("seed_dist")


def is_spike(state: TrainState, loss: float, training: TrainConfig) -> bool:
    """Take note of a step's loss (mean over ranks); whether it is the last of too many odd ones in a row.

    Odd losses do not enter the window, or it would get used to them.
    """
    window = state.recent_losses
    if training.spike_deviations == 0 or not _is_odd(window, loss, training):
        state.odd_in_a_row = 0
        state.recent_losses = [*window, loss][-training.spike_window :]
        return False
    state.odd_in_a_row += 1
    return state.odd_in_a_row >= training.spike_patience


def _is_odd(window: list[float], loss: float, training: TrainConfig) -> bool:
    if len(window) < training.spike_window:
        return False
    mean = statistics.fmean(window)
    deviation = max(statistics.pstdev(window, mean), _LEAST_DEVIATION * abs(mean))
    return loss > mean + training.spike_deviations * deviation


def _checkpoint_before(run: Run) -> Path | None:
    """Not one that was saved because of a stop, if it can be helped: a run that was not stopped does not have it."""
    begin, every = run.state.step - run.state.odd_in_a_row, run.training.checkpoint_every
    regular = newest_checkpoint(run.saver.folder, run.engine.comm, lambda step: step <= begin and step % every == 0)
    return regular or newest_checkpoint(run.saver.folder, run.engine.comm, lambda step: step <= begin)


def roll_back(run: Run) -> bool:
    """Go back to the newest checkpoint, and on from there with the batches that come after the spike.

    False when there is no checkpoint yet: then training goes on as it is. TrainingError when it was done too often.
    """
    state, comm, limit = run.state, run.engine.comm, run.training.max_rollbacks
    if not wait_for_save(run, LAST_PATIENCE_S):  # which is the newest must not depend on how fast a disk is
        raise CheckpointError(
            f"the loss has a spike at step {state.step}, and a checkpoint is still being written after "
            f"{LAST_PATIENCE_S:.0f} s; the disk of {run.saver.folder} does not answer. Earlier checkpoints are intact."
        )
    run.heartbeat.beat("load", state.step)
    path = _checkpoint_before(run)
    if path is None:
        nowhere = f"step {state.step}: the loss has a spike, and there is no checkpoint to go back to"
        on_main(comm, lambda: _LOG.warning("%s", nowhere))
        run.journal.write("spike", state.step)
        state.odd_in_a_row, state.recent_losses = 0, []
        return False
    if state.rollbacks >= limit:
        raise TrainingError(
            f"the loss has a spike at step {state.step}, and training went back {limit} times already, which is "
            "max_rollbacks. Lower the learning rate or look at the data; spike_deviations=0 goes on regardless."
        )
    back = TrainState.from_dict(load_checkpoint(path, run.engine))
    run.saver.go_back(back.step)
    first, last = back.batch, state.batch - 1
    back.batch_offset, back.rollbacks = state.batch - back.step, state.rollbacks + 1
    run.journal.write(
        "rollback", back.step, spike_step=state.step, first_batch_left_out=first, last_batch_left_out=last
    )
    text = (
        f"step {state.step}: the loss has a spike. Going back to step {back.step}; batches {first} to {last} are left "
        f"out ({back.rollbacks} of {limit} times)"
    )
    on_main(comm, lambda: _LOG.warning("%s", text))
    run.state = back
    return True
