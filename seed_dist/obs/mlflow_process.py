"""Starts the MLflow sink beside or after training, so that it can neither stop nor slow it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from seed_dist.obs.side_process import start_side_process

When = Literal["end", "live", "off"]
LOG = "mlflow_sink.log"


@contextmanager
def copied_to_mlflow(run: Path, when: When, rank: int) -> Iterator[None]:
    """While the block runs (`live`) or when it ends, in whatever way (`end`), rank 0 has the journal copied to MLflow.

    The default is `end`: importing MLflow and creating its database take about 5 s of processor time per run. A
    laptop's two training ranks would feel that; at idle priority after training it costs nobody anything.
    """
    if rank == 0 and when == "live":
        start_sink(run, follow=True)
    try:
        yield
    finally:
        if rank == 0 and when == "end":
            start_sink(run, follow=False)


def start_sink(run: Path, follow: bool) -> None:
    """Start the copying process and forget it: detached, at the lowest priority, its messages in RUN/mlflow_sink.log.

    With `follow` it goes on until this process has ended. When it cannot be started that is noted in the log and
    nothing else happens: the journal has everything, and the same command can be run by hand later.
    """
    follows = ["--follow", str(os.getpid())] if follow else []
    start_side_process("seed_dist.obs.mlflow_sink", [str(run), *follows], run / LOG)
