"""Two kinds of jobs that can be disturbed from outside: local processes under torchrun, and a SLURM job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from seed_dist.errors import SeedDistError
from seed_dist.ops.chain import ROOT
from seed_dist.proof.ranks import Started, start_by_torchrun

TRAINING = "seed_dist.train"
_RESTARTS = 4  # more than a drill needs, so that one too many is seen
# In the states before RUNNING a job may wait; after the others it does not come back by itself.
_LIVING = ("UNKNOWN", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
_ASK_EVERY_S = 2.0  # many may be asking SLURM's controller


class Job(Protocol):
    """A training that was submitted."""

    def state(self) -> str:
        """For people: what the batch system says of it."""

    def is_over(self) -> bool:
        """Whether it will never run again."""

    def signal(self) -> None:
        """SIGUSR1 to all ranks, as before the end of a time limit."""

    def kill_rank(self, rank: int) -> None:
        """SIGKILL to one rank."""

    def cancel(self) -> None:
        """End it if it is not over."""


class LocalJob:
    """Ranks on this machine; torchrun starts them again as a batch system requeues."""

    def __init__(self, arguments: Sequence[str], ranks: int, log: Path) -> None:
        self._process: Started = start_by_torchrun(arguments, ranks, log, restarts=_RESTARTS)

    def state(self) -> str:
        code = self._process.poll()
        return "RUNNING" if code is None else f"ended with code {code}"

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def signal(self) -> None:
        for rank in self._ranks().values():
            rank.send_signal(signal.SIGUSR1)

    def kill_rank(self, rank: int) -> None:
        self._ranks()[rank].kill()

    def cancel(self) -> None:
        if not self.is_over():
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()

    def _ranks(self) -> dict[int, psutil.Process]:
        children = psutil.Process(self._process.pid).children()
        return {int(child.environ()["RANK"]): child for child in children if TRAINING in child.cmdline()}


@dataclass(frozen=True)
class Shape:
    """What a SLURM job asks for; `options` are further words for sbatch."""

    nodes: int = 2
    ranks_per_node: int = 1
    gpus_per_node: int = 0
    options: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


class SlurmJob:
    """slurm/lora.sbatch as it ships, told to train another stage. SeedDistError with SLURM's own words if refused."""

    def __init__(self, arguments: Sequence[str], recipe: str, work: Path, shape: Shape, log: Path) -> None:
        self._shape = shape
        asked = [f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.ranks_per_node}", "--cpus-per-task=1"]
        asked += [f"--gpus-per-node={shape.gpus_per_node}", "--time=20", "--job-name=seed-drill", f"--output={log}"]
        command = ["sbatch", "--parsable", *asked, *shape.options, "slurm/lora.sbatch", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the job has this Python too
        self._state, self._asked_s = "PENDING", -_ASK_EVERY_S
        self.number = _run(command, RECIPE=recipe, WORK=str(work), PATH=path).split(";")[0].strip()

    def state(self) -> str:
        """GONE when SLURM has forgotten it, UNKNOWN while the controller does not answer."""
        if time.monotonic() - self._asked_s > _ASK_EVERY_S:
            self._asked_s = time.monotonic()
            command = ["scontrol", "show", "job", "-o", self.number]
            shown = subprocess.run(command, capture_output=True, text=True, check=False)
            found = re.search(r"\bJobState=(\S+)", shown.stdout)
            self._state = found[1] if found else "GONE" if "Invalid job id" in shown.stderr else "UNKNOWN"
        return self._state

    def is_over(self) -> bool:
        return self.state() not in _LIVING

    def signal(self) -> None:
        _run(["scancel", "--signal=USR1", self.number])

    def kill_rank(self, rank: int) -> None:
        """On whichever node it is: SLURM there knows which process is which task."""
        find = f"scontrol listpids {self.number} | awk '$5 == {rank} {{print $1}}'"
        is_training = f"tr '\\0' '\\n' </proc/$pid/cmdline | grep -qx {TRAINING}"  # a word of its own: not this script
        kill = f"for pid in $({find}); do if {is_training}; then kill -9 $pid; fi; done"
        where = ["srun", f"--jobid={self.number}", "--overlap", f"--nodes={self._shape.nodes}"]
        _run([*where, f"--ntasks={self._shape.nodes}", "--ntasks-per-node=1", "bash", "-c", kill])

    def cancel(self) -> None:
        if not self.is_over():
            _run(["scancel", self.number])


def _run(command: Sequence[str], **environment: str) -> str:
    """Its output. From the checkout, as the batch scripts want."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise SeedDistError(f"there is no {command[0]} here. Use --on local, or a node that submits jobs.") from error
    if done.returncode:
        raise SeedDistError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
