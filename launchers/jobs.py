"""Steps of the pipeline as submitit's jobs: what each asks for, its batch script, its place after the one before."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from launchers.task import Task
from seed_dist.errors import SeedDistError
from seed_dist.ops.chain import ROOT, Step

_TRIES = 6
_PAUSE_S = 20.0
# submitit counts every pre-emption of a job with a short limit as a time-out, and gives up at the third. Whether going
# on is of use is judged by what the runs have achieved (seed_dist.watch), not by how often they were interrupted.
_MAX_INTERRUPTIONS = 1_000_000


@dataclass(frozen=True)
class Shape:
    """What a job asks for. Trainings get all of it, the other steps one task of it.

    Steps whose processes share their work come as arrays: of `shard_tasks` and `encode_tasks` jobs.
    """

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    hours: int
    partition: str | None
    shard_tasks: int = 1
    encode_tasks: int = 1
    cpus_per_task: int = 4

    def copies(self, step: Step) -> int:
        if step.name.startswith("shard_"):
            return self.shard_tasks
        return self.encode_tasks if step.name.startswith("encode_") else 1


@dataclass(frozen=True)
class Place:
    """Where a job's things lie: the code that it runs, its workspace, and submitit's logs and scripts."""

    code: Path
    work: Path
    recipe: str

    @property
    def logs(self) -> Path:
        return self.work / "submitit"


def program_and_arguments(step: Step) -> tuple[str, tuple[str, ...]]:
    """The step's module, or script as from the folder of the code, and its arguments; without Python and torchrun:
    submitit starts the ranks itself.
    """
    words = step.command[1:]
    last_module = max((at for at, word in enumerate(words) if word == "-m"), default=-1)
    return words[last_module + 1].removeprefix(f"{ROOT}/"), tuple(words[last_module + 2 :])


def parameters(step: Step, shape: Shape, place: Place, after: str | None) -> dict[str, Any]:
    """Arguments for submitit's SlurmExecutor; `after` is the SLURM job that must have succeeded before."""
    trains = step.name.startswith("train_")
    ranks = shape.ranks_per_node if trains else 1
    uses_gpu = trains or step.name.startswith(("encode_", "eval"))
    chosen: dict[str, Any] = {
        "job_name": f"seed-{step.name}",
        "nodes": shape.nodes if trains else 1,
        "ntasks_per_node": ranks,
        "cpus_per_task": shape.cpus_per_task,
        "gpus_per_node": min(shape.gpus_per_node, ranks) if uses_gpu else 0,
        "time": shape.hours * 60,
        "setup": _setup(place),
        "srun_args": ["--kill-on-bad-exit=1"],
        "stderr_to_stdout": True,
        # A job whose predecessor has failed would wait for ever.
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
    }
    chosen |= {"partition": shape.partition} if shape.partition else {}
    return chosen | ({"dependency": f"afterok:{after}"} if after else {})


def _setup(place: Place) -> list[str]:
    """Lines of the batch script before srun: this environment's Python, the copied code, and what all jobs share."""
    paths = {"RECIPE": place.recipe, "WORK": place.work}
    built = {"SEED_DIST_CACHE": ROOT / ".venv/cache", "TORCH_EXTENSIONS_DIR": ROOT / ".venv/torch_extensions"}
    return [
        f"cd {shlex.quote(str(place.code))} || exit 1",
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH" PYTHONPATH="$PWD"',
        *(f"export {name}={shlex.quote(str(value))}" for name, value in paths.items()),
        *(f"export {name}=${{{name}:-{shlex.quote(str(value))}}}" for name, value in built.items()),
        "source slurm/common.sh",
    ]


class _WithoutSlurm(submitit.SlurmExecutor):  # type: ignore[misc]
    """Writes batch scripts on machines that have no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def batch_script(step: Step, shape: Shape, place: Place) -> str:
    """What would be submitted for a step, but for the array and the number of the job that it waits for."""
    executor = _WithoutSlurm(place.logs)
    executor.update_parameters(**parameters(step, shape, place, None))
    return executor._make_submission_file_text(executor._submitit_command_str, "shown")


def submit_to_slurm(steps: Sequence[Step], shape: Shape, place: Place, after: str | None = None) -> None:
    """Submit every step after the one before it, the first after the job `after`. SeedDistError says how to go on when
    the controller does not answer for minutes.
    """
    for at, step in enumerate(steps):
        executor = submitit.SlurmExecutor(place.logs, max_num_timeout=_MAX_INTERRUPTIONS)
        executor.update_parameters(**parameters(step, shape, place, after))
        try:
            jobs = _submit(executor, step, shape.copies(step))
        except (FailedJobError, FailedSubmissionError) as error:
            names = " ".join(step.name for step in steps[at:])
            go_on = f"--steps {names}" + (f" --after {after}" if after else "")
            raise SeedDistError(f"step {step.name} could not be submitted: {error}\nGo on with {go_on}") from error
        after = jobs[0].job_id.partition("_")[0]  # of an array: all its tasks
        print(f"{step.name}: job {after}, log {jobs[0].paths.stdout}", flush=True)


def _submit(executor: Any, step: Step, copies: int) -> list[Any]:
    for number in range(1, _TRIES + 1):
        try:
            with executor.batch() if copies > 1 else nullcontext():
                return [executor.submit(Task(*program_and_arguments(step))) for _ in range(copies)]
        except (FailedJobError, FailedSubmissionError) as error:
            if number == _TRIES:
                raise
            print(f"{step.name}: not submitted yet (try {number} of {_TRIES}): {error}", file=sys.stderr, flush=True)
            time.sleep(_PAUSE_S)
    raise AssertionError("unreachable")


def run_here(steps: Sequence[Step], shape: Shape, place: Place) -> None:
    """Run the steps one after the other on this machine. SeedDistError names what failed."""
    for step in steps:
        executor = submitit.LocalExecutor(place.logs)
        ranks = shape.ranks_per_node if step.name.startswith("train_") else 1
        executor.update_parameters(
            tasks_per_node=ranks, gpus_per_node=min(shape.gpus_per_node, ranks), timeout_min=shape.hours * 60
        )
        jobs = [executor.submit(Task(*program_and_arguments(step))) for _ in range(shape.copies(step))]
        for job in jobs:
            print(f"{step.name}: job {job.job_id}, log {job.paths.stdout}", flush=True)
        for job in jobs:
            failure = job.exception()  # waits for all tasks
            if failure is not None:
                raise SeedDistError(f"step {step.name} failed: {failure}\nIts log is {job.paths.stderr}.")
