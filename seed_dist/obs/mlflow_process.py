"""Starts what reports on a training from processes of their own, so that none of it can stop or slow the training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seed_dist.obs.destination import VARIABLE
from seed_dist.obs.side_process import start_side_process
from seed_dist.topology import world_from_environment

When = Literal["end", "live", "off"]
LOG = "mlflow_sink.log"


@dataclass(frozen=True)
class Tracking:
    """When the journal is copied to MLflow, and where to; `uri` None: see `obs.destination`. Never shown: it may hold a
    password.
    """

    when: When = "off"
    uri: str | None = field(default=None, repr=False)


def usual_when() -> When:
    """Of a SLURM job's processes nothing is left when it ends."""
    return "live" if "SLURM_JOB_ID" in os.environ else "end"


@contextmanager
def copied_to_mlflow(run: Path, tracking: Tracking, rank: int) -> Iterator[None]:
    """While the block runs (`live`) or when it ends, in whatever way (`end`), rank 0 has the journal copied to MLflow;
    unless it is `off`, the first rank of each node has the node watched.

    Outside of SLURM the default is `end`: importing MLflow and creating its database take about 5 s of processor time
    per run. A laptop's two training ranks would feel that; at low priority after training it costs nobody anything.
    """
    if tracking.when != "off" and world_from_environment().local_rank == 0:
        start_side_process("seed_dist.obs.node_sampler", [str(run), "--follow", str(os.getpid())], run / LOG)
    if rank == 0 and tracking.when == "live":
        start_sink(run, tracking.uri, follow=True)
    try:
        yield
    finally:
        if rank == 0 and tracking.when == "end":
            start_sink(run, tracking.uri, follow=False)


def start_sink(run: Path, uri: str | None, follow: bool) -> None:
    """Start the copying process; with `follow` it goes on, in idle time, until this process has ended. One that begins
    when training is over, and imports MLflow only then, would perhaps never find any.

    The address is handed over in the environment, because everybody can read the command lines of a machine.
    """
    follows = ["--follow", str(os.getpid())] if follow else []
    environment = {} if uri is None else {VARIABLE: uri}
    start_side_process("seed_dist.sync", [str(run), *follows], run / LOG, environment=environment, is_idle=follow)
