"""Validation, which a stop does not wait for: between two batches of it all ranks agree whether to go on.

What was cut short leaves no figures behind. The position remembers that they are due, and the next attempt computes
them before its first step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import torch

from seed_dist.dist.comm import on_main
from seed_dist.errors import TrainingError
from seed_dist.faults import fault_point
from seed_dist.train.run import Run
from seed_dist.train.stages.base import Ids

_LOG = logging.getLogger("seed_dist")


class _StoppedError(Exception):
    """A stop was asked for; raised on all ranks at the same batch."""


def validate_first(run: Run) -> bool:
    """Before an attempt's first step: the figures that a stop left due, and where training starts from. What breaks in
    validation breaks now, not hours later. Whether a stop was asked for, equal on all ranks.

    Raises TrainingError when the job's time was over before they were there: the next attempt would come no further.
    """
    if run.state.step and not run.state.validation_due:
        return False
    is_asked = validate(run)
    if is_asked and run.state.validation_due:
        on_main(run.engine.comm, lambda: _check_time(run))
    return is_asked


def validate(run: Run) -> bool:
    """The stage's figures on the validation split. Whether a stop was asked for meanwhile, equal on all ranks."""
    began_s = time.monotonic()
    point = "train.validate_again" if run.state.validation_due else "train.validate"
    fault_point(point, run.engine.comm.rank, run.state.step)
    run.state.validation_due = True
    run.stage.eval()
    try:
        with torch.no_grad():
            figures = run.stage.validate(_batches(run))
    except _StoppedError:
        _LOG.info("step %d: validation is cut short by a stop and comes first when training goes on", run.state.step)
        return True
    finally:
        run.stage.train()
    run.state.validation_due = False
    run.journal.write("validation", run.state.step, **figures, seconds=time.monotonic() - began_s)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "validation_samples")
    _LOG.info("step %d validation: %s", run.state.step, shown)
    return _is_asked(run)


def _batches(run: Run) -> Iterator[Ids]:
    """This rank's validation samples. Before each batch the ranks agree whether to go on."""
    for ids in run.stage.validation_batches():
        run.heartbeat.beat("validate", run.state.step)
        if _is_asked(run):
            raise _StoppedError
        if len(ids):
            yield ids


def _is_asked(run: Run) -> bool:
    return run.engine.comm.any([bool(run.stop)])[0]


def _check_time(run: Run) -> None:
    if run.stop.reason == "time limit":
        raise TrainingError(
            f"the job's time is over before the validation at step {run.state.step}, with which this attempt began, is "
            f"done: {run.stage.validation_samples} samples do not fit. Give the job more time, or set a smaller "
            "validation_samples."
        )
