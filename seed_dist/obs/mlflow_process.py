"""Starts what reports on a training from processes of their own, so that none of it can stop or slow the training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seed_dist.obs.destination import VARIABLE
from seed_dist.topology import world_from_environment

When = Literal["end", "live", "off"]
LOG = "mlflow_sink.log"
_NICENESS = 19


@dataclass(frozen=True)
class Tracking:
    """When the journal is copied to MLflow, and where to; `uri` None: see `obs.destination`. Never shown: it may hold a
    password.
    """

    when: When = "off"
    uri: str | None = field(default=None, repr=False)


@contextmanager
def copied_to_mlflow(run: Path, tracking: Tracking, rank: int) -> Iterator[None]:
    """While the block runs (`live`) or when it ends, in whatever way (`end`), rank 0 has the journal copied to MLflow;
    unless it is `off`, the first rank of each node has the node watched.

    The default is `end`: importing MLflow and creating its database take about 5 s of processor time per run. A
    laptop's two training ranks would feel that; at idle priority after training it costs nobody anything.
    """
    if tracking.when != "off" and world_from_environment().local_rank == 0:
        _start(run, ["seed_dist.obs.node_sampler", str(run), "--follow", str(os.getpid())], {})
    if rank == 0 and tracking.when == "live":
        start_sink(run, tracking.uri, follow=True)
    try:
        yield
    finally:
        if rank == 0 and tracking.when == "end":
            start_sink(run, tracking.uri, follow=False)


def start_sink(run: Path, uri: str | None, follow: bool) -> None:
    """Start the copying process; with `follow` it goes on until this process has ended.

    The address is handed over in the environment, because everybody can read the command lines of a machine.
    """
    words = ["seed_dist.sync", str(run)]
    if follow:
        words += ["--follow", str(os.getpid())]
    _start(run, words, {} if uri is None else {VARIABLE: uri})


def _start(run: Path, words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a module and forget it: detached, at the lowest priority, its messages in RUN/mlflow_sink.log.

    When it cannot be started that is noted in the log and nothing else happens: the journal has everything, and
    `python -m seed_dist.sync` can be run by hand later.
    """
    try:
        with (run / LOG).open("ab") as log:
            subprocess.Popen(
                ["nice", "-n", str(_NICENESS), sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )
    except OSError as error:
        _note(run, f"{words[0]} not started: {error}\n")


def _note(run: Path, text: str) -> None:
    try:
        with (run / LOG).open("a") as log:
            log.write(text)
    except OSError:  # a full disk: telling of it is not worth a training
        pass
