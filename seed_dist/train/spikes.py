"""Loss spikes: seen by how far a loss lies above the last ones, answered by going back and leaving their data out.

PaLM (Chowdhery et al. 2022, section 5.1) went back about 100 steps before each of some twenty spikes and left out the
batches around it; none came again, though the same batches did no harm elsewhere. Six standard deviations over the
last 128 losses are OLMo-core's bounds. One odd batch is no spike: several in a row are, because only then has it done
something to the weights that lasts.
"""

from __future__ import annotations

import math

from seed_dist.config import TrainConfig
from seed_dist.train.rollback import roll_back
from seed_dist.train.run import Run
from seed_dist.train.state import TrainState

# A loss that hardly moves has next to no deviation; a rise of less than 6 x 0.1 % of it never counts.
_LEAST_DEVIATION = 1e-3


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
    mean = math.fsum(window) / len(window)
    # Not statistics.pstdev: it counts in fractions, which takes a millisecond of every step.
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in window) / len(window))
    deviation = max(spread, _LEAST_DEVIATION * abs(mean))
    return loss > mean + training.spike_deviations * deviation


def answer_spike(run: Run) -> bool:
    """Go back to before the first odd loss; False when there is no checkpoint yet: then training goes on as it is."""
    state = run.state
    if roll_back(run, state.step - state.odd_in_a_row, "spike"):
        return True
    run.journal.write("spike", state.step)
    state.odd_in_a_row, state.recent_losses = 0, []
    return False
