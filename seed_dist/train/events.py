"""What the loop does between steps when it is due: log, count a skipped step. Called by all ranks together. Validating
is `validation.py`, saving `saving.py`.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from seed_dist.errors import TrainingError
from seed_dist.train.nonfinite import find_nonfinite
from seed_dist.train.run import Run
from seed_dist.train.saving import save
from seed_dist.train.steps import samples_digest

_LOG = logging.getLogger("seed_dist")


def log_step(run: Run, digest: int, outputs: list[dict[str, Tensor]], values: dict[str, float]) -> None:
    """One journal line and the progress line. `outputs`: loss and metrics per micro-batch; ranks are averaged in one
    go. `digest`: of this rank's samples.
    """
    local = torch.stack([torch.stack([part[name].float() for part in outputs]).mean() for name in outputs[0]])
    means = dict(zip(outputs[0], run.engine.comm.mean(local).tolist(), strict=True))
    rate = {"samples_per_s": run.training.global_batch / values["step_s"]}
    scale = {"loss_scale": run.engine.loss_scale} if run.engine.dtype == torch.float16 else {}
    told = {"samples_digest": samples_digest(digest, run.engine.comm)}
    run.journal.write("step", run.state.step, **told, **means, **values, **rate, **scale, **run.stage.running_metrics())
    run.progress.update(run.state.step, means["loss"], rate["samples_per_s"])
    _tell_alarm(run)
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


def _tell_alarm(run: Run) -> None:
    """Once when something begins to go wrong, not at every step of it."""
    alarm = run.stage.alarm()
    if alarm is not None and run.alarm is None:
        run.journal.write("alarm", run.state.step, what=alarm)
        if run.engine.comm.rank == 0:
            _LOG.warning("step %d: %s", run.state.step, alarm)
    run.alarm = alarm


def count_skip(
    run: Run, outputs: list[dict[str, Tensor]], micro_batches: list[dict[str, Tensor]], at_scale_floor: bool
) -> None:
    """Say which samples had a non-finite loss. The run ends when nothing is being learnt: after too many in a row, or
    when finite losses have gradients that fp16 cannot hold at any scale. Then the position is saved.
    """
    state, comm, limit = run.state, run.engine.comm, run.training.max_skipped_in_a_row
    own = zip(outputs, run.order.micro_batches(state.batch - 1), strict=True)
    bad = [int(i) for part, ids in own if not bool(torch.isfinite(part["loss"])) for i in ids]
    by_rank = {str(rank): ids for rank, ids in enumerate(comm.gather_objects(bad)) if ids}
    run.journal.write("skipped", state.step, in_a_row=state.skipped_in_a_row, samples_with_bad_loss_by_rank=by_rank)
    if comm.rank == 0:
        cause = f"loss not finite on ranks {', '.join(by_rank)}" if by_rank else "gradients not finite"
        _LOG.warning("step %d is skipped: %s (%d skipped in all)", state.step, cause, state.skipped)
    is_too_small = at_scale_floor and not by_rank
    if not is_too_small and state.skipped_in_a_row < limit:
        return
    first = find_nonfinite(run.engine, micro_batches) or "nothing when the step is computed again"
    save(run, is_last_chance=True)
    if is_too_small:
        raise TrainingError(
            f"step {state.step}: gradients overflow fp16 at the smallest loss scale, {run.engine.loss_scale:g}. Not "
            f"finite is first {first}. Train in bf16 or fp32 (engine.precision), or with a lower learning rate from an "
            "earlier checkpoint."
        )
    raise TrainingError(
        f"{state.skipped_in_a_row} steps in a row had non-finite gradients, and max_skipped_in_a_row is {limit}. Not "
        f"finite is first {first}. Lower the learning rate, or look at the data of steps {state.step - limit + 1} to "
        f"{state.step}. Skipped steps change nothing, so the newest checkpoint is good."
    )
