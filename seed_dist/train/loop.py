"""The training loop of all stages.

Per step: fetch the micro-batches; forward and backward each; one optimizer step, on which all ranks agree that it was
applied; advance the position; log, validate and save when due, or save and leave when any rank was asked to stop.
"""

from __future__ import annotations

import time

from seed_dist.faults import fault_point
from seed_dist.train.events import count_skip, log_step, save, validate
from seed_dist.train.run import Outcome, Run
from seed_dist.train.schedule import learning_rate
from seed_dist.train.state import seed_everything
from seed_dist.train.steps import steps_ahead
from seed_dist.train.stragglers import OwnTime


def train(run: Run, last_step: int) -> Outcome:
    """Train from `run.state` until `last_step` steps are done or a stop is asked for; the position is saved at the end.

    Raises TrainingError when gradients stay non-finite, CheckpointError when the last save fails.
    """
    engine, comm, state, training = run.engine, run.engine.comm, run.state, run.training
    beat, own_time = run.heartbeat.beat, OwnTime(comm)
    run.stage.train()
    if state.step == 0:
        beat("validate", state.step)
        validate(run)  # where training starts from; and what breaks in validation breaks now, not hours later
    # The reader starts here and not earlier, because only now the position is known.
    steps = steps_ahead(run, last_step)
    beat("data", state.step)
    began_s = time.monotonic()
    for micro_batches in steps:
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
        lr = learning_rate(training, state.step)
        result = engine.step(lr)
        run.stage.after_step(engine, result.applied)
        fault_point("train.before_advance", comm.rank, state.step)
        state.advance(result.applied, training.global_batch)

        own_s = data_wait_s + own_time.take()
        is_last = state.step == last_step
        if not result.applied:
            count_skip(run, outputs)
        if is_last or state.step % training.log_every == 0:
            timing = {"step_s": time.monotonic() - began_s, "data_wait_s": data_wait_s, "own_s": own_s}
            log_step(run, outputs, {"lr": lr, "grad_norm": result.grad_norm, **timing})
        if state.step % training.validate_every == 0 or state.step == training.steps:
            beat("validate", state.step)
            validate(run)
        is_stopping = comm.agree(bool(run.stop), state.step) and not is_last
        if is_last or is_stopping or state.step % training.checkpoint_every == 0:
            beat("save", state.step)
            save(run, is_last_chance=is_last or is_stopping)
        if is_stopping:
            run.journal.write("stop", state.step, reason=run.stop.reason)
            return Outcome.STOPPED
        beat("data", state.step)
        began_s = time.monotonic()
    return Outcome.FINISHED if state.step >= training.steps else Outcome.LIMIT
