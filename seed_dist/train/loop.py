"""The training loop of all stages.

Per step: fetch the micro-batches; forward and backward each; one optimizer step, on which all ranks agree that it was
applied; advance the position; meet the other ranks; log, validate and save when due, or save and leave when any rank
was asked to stop, or go back to a checkpoint when the loss has a spike or the codebook has collapsed. Checkpoints are
written in the background; what the ranks tell each other when they meet says how that went.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing

from seed_dist.faults import fault_point
from seed_dist.train.boundary import mean_loss, meet
from seed_dist.train.collapse import answer_collapse
from seed_dist.train.events import count_skip, log_step
from seed_dist.train.replicas import check_replicas
from seed_dist.train.run import Outcome, Run
from seed_dist.train.saving import save, settle
from seed_dist.train.schedule import learning_rate
from seed_dist.train.spikes import answer_spike, is_spike
from seed_dist.train.state import seed_everything
from seed_dist.train.steps import StepData, steps_ahead
from seed_dist.train.stragglers import OwnTime
from seed_dist.train.validation import validate, validate_first


def train(run: Run, last_step: int) -> Outcome:
    """Train from `run.state` until `last_step` steps are done or a stop is asked for; the position is saved at the end.

    Raises TrainingError when gradients stay non-finite, CheckpointError when the last save fails.
    """
    run.stage.train()
    if validate_first(run):  # nothing was done that is not saved
        run.journal.write("stop", run.state.step, reason=run.stop.reason)
        return Outcome.STOPPED
    while True:
        run.heartbeat.beat("data", run.state.step)
        # The reader starts here and not earlier, because only now the position is known.
        with closing(steps_ahead(run, last_step)) as steps:
            outcome = _train(run, last_step, steps)
        if outcome is not None:
            return outcome


def _train(run: Run, last_step: int, steps: Iterable[StepData]) -> Outcome | None:
    """None when training went back, so that other steps are to be read."""
    engine, comm, state, training = run.engine, run.engine.comm, run.state, run.training
    beat, own_time = run.heartbeat.beat, OwnTime(comm)
    began_s = time.monotonic()
    for micro_batches, digest in steps:
        data_wait_s = time.monotonic() - began_s
        seed_everything(run.seed, state.step, comm.rank)
        outputs = []
        for batch in micro_batches:
            beat("forward", state.step)
            with own_time:
                fault_point("train.forward", comm.rank, state.step)
                loss, metrics = engine.forward(engine.to_device(batch))
            beat("backward", state.step)
            engine.backward(loss)
            outputs.append({"loss": loss.detach(), **metrics})
        fault_point("train.before_step", comm.rank, state.step)
        beat("step", state.step)
        if training.replica_check_every and (state.step + 1) % training.replica_check_every == 0:
            check_replicas(run.stage, comm)
        lr = learning_rate(training, state.step)
        result = engine.step(lr)
        run.stage.after_step(engine, result.applied)
        fault_point("train.before_advance", comm.rank, state.step)
        state.advance(result.applied, training.global_batch)

        boundary = meet(comm, state.step, mean_loss(outputs), bool(run.stop), run.saver.flags())
        beat("step", state.step)  # a rank that left the meeting out waits at another step than the others
        settle(run, boundary.saving)
        own_s = data_wait_s + own_time.take()
        is_last = state.step == last_step
        if not result.applied:
            count_skip(run, outputs, micro_batches, result.at_scale_floor)
        if is_last or state.step % training.log_every == 0:
            timing = {"step_s": time.monotonic() - began_s, "data_wait_s": data_wait_s, "own_s": own_s}
            log_step(run, digest, outputs, {"lr": lr, "grad_norm": result.grad_norm, **timing})
        is_asked = boundary.stop
        if state.step % training.validate_every == 0 or state.step == training.steps:
            beat("validate", state.step)
            is_asked = validate(run)  # also meanwhile: another step may be too late
        if result.applied and is_spike(state, boundary.loss, training) and answer_spike(run):
            return None
        if result.applied and answer_collapse(run):
            return None
        is_stopping = is_asked and (not is_last or state.validation_due)
        # What is saved in the middle of a spike would be gone back to.
        is_due = state.step % training.checkpoint_every == 0 and state.odd_in_a_row == 0
        if is_last or is_stopping or is_due:
            beat("save", state.step)
            save(run, is_last_chance=is_last or is_stopping)
        if is_stopping:
            run.journal.write("stop", state.step, reason=run.stop.reason)
            return Outcome.STOPPED
        beat("data", state.step)
        began_s = time.monotonic()
    return Outcome.FINISHED if state.step >= training.steps else Outcome.LIMIT
