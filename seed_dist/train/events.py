"""What the loop does between steps when it is due: log, count a skipped step, validate, save. Called by all ranks
together.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

from seed_dist.dist.checkpoint import save_checkpoint
from seed_dist.errors import SeedDistError, TrainingError
from seed_dist.train.run import Run

_LOG = logging.getLogger("seed_dist")


def log_step(run: Run, outputs: list[dict[str, Tensor]], values: dict[str, float]) -> None:
    """One journal line and the progress line. `outputs`: loss and metrics per micro-batch; ranks are averaged in one
    go.
    """
    local = torch.stack([torch.stack([part[name].float() for part in outputs]).mean() for name in outputs[0]])
    means = dict(zip(outputs[0], run.engine.comm.mean(local).tolist(), strict=True))
    rate = {"samples_per_s": run.training.global_batch / values["step_s"]}
    scale = {"loss_scale": run.engine.loss_scale} if run.engine.dtype == torch.float16 else {}
    run.journal.write("step", run.state.step, **means, **values, **rate, **scale, **run.stage.running_metrics())
    run.progress.update(run.state.step, means["loss"], rate["samples_per_s"])
    _flag_stragglers(run, values["own_s"], values["step_s"])


def _flag_stragglers(run: Run, own_s: float, step_s: float) -> None:
    """Say once which ranks keep the others waiting. The times travel over gloo, past the GPU's queue."""
    times = run.engine.comm.gather(torch.tensor([own_s], dtype=torch.float64)).tolist()
    for rank in run.stragglers.newly_found(times, step_s):
        run.journal.write("straggler", run.state.step, rank=rank, own_s_by_rank=[round(time, 4) for time in times])
        if run.engine.comm.rank == 0:
            _LOG.warning(
                "step %d: rank %d takes %.3g s by itself, and all wait for it; look at its node (disk, load).",
                run.state.step,
                rank,
                times[rank],
            )


def count_skip(run: Run, outputs: list[dict[str, Tensor]]) -> None:
    """Say which ranks had a non-finite loss; too many in a row end the run, because nothing is being learnt."""
    is_finite = all(bool(torch.isfinite(part["loss"])) for part in outputs)
    culprits = [rank for rank, fine in enumerate(run.engine.comm.gather_objects(is_finite)) if not fine]
    state, limit = run.state, run.training.max_skipped_in_a_row
    run.journal.write("skipped", state.step, in_a_row=state.skipped_in_a_row, ranks_with_bad_loss=culprits)
    if run.engine.comm.rank == 0:
        cause = f"loss not finite on ranks {culprits}" if culprits else "gradients not finite"
        _LOG.warning("step %d is skipped: %s (%d skipped in all)", state.step, cause, state.skipped)
    if state.skipped_in_a_row >= limit:
        raise TrainingError(
            f"{state.skipped_in_a_row} steps in a row had non-finite gradients, and max_skipped_in_a_row is {limit}. "
            f"Lower the learning rate, or look at the data of steps {state.step - limit + 1} to {state.step}. Skipped "
            "steps change nothing, so the newest checkpoint is good."
        )


def validate(run: Run) -> None:
    """The stage's figures on the validation split."""
    began_s = time.monotonic()
    run.stage.eval()
    with torch.no_grad():
        figures = run.stage.validate()
    run.stage.train()
    run.journal.write("validation", run.state.step, **figures, seconds=time.monotonic() - began_s)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "validation_samples")
    _LOG.info("step %d validation: %s", run.state.step, shown)


def save(run: Run, is_last_chance: bool) -> None:
    """A checkpoint. When a disk refuses it, training goes on with the earlier ones unless nothing would follow."""
    began_s = time.monotonic()
    try:
        path = save_checkpoint(run.checkpoints, run.engine, run.state.as_dict(), run.training.keep_checkpoints)
    except (SeedDistError, OSError) as error:
        run.journal.write("checkpoint_failed", run.state.step, reason=str(error))
        if is_last_chance:
            raise
        _LOG.warning("%s Training goes on and tries again in %d steps.", error, run.training.checkpoint_every)
        return
    seconds = time.monotonic() - began_s
    run.stop.save_took(seconds)
    run.journal.write("checkpoint", run.state.step, path=path.name, seconds=seconds)
