"""A fire drill for your cluster: a tiny real training gets the signals that a long one will get, and must come through.

  python -m seed_dist.drill --on local --work runs/drill
  python -m seed_dist.drill --on slurm --work runs/drill --nodes 2 --ranks-per-node 1
  python -m seed_dist.drill --on slurm --work runs/drill --nodes 2 --ranks-per-node 8 --gpus-per-node 8 \\
      --sbatch=--partition=gpu --sbatch=--account=me

It draws a few hundred scenes, encodes them, and trains stage 1 on them twice: once left alone, and once with SIGUSR1
to the job, as before the end of a time limit, and kill -9 to one rank. The disturbed job must save, requeue itself
once, go on at the same step, come back after the kill, finish, and equal its twin bit for bit. On SLURM the jobs are
slurm/lora.sbatch as it ships (--stage causal_qformer is one of its further words); WORK must be on a disk that all
nodes see. Locally torchrun stands for the batch system. The table says what was seen and what to mend;
WORK/drill.json keeps it.

About three minutes on a laptop. SLURM lets a requeued job wait for two minutes before it starts again, so there it is
about eight, and what the queue takes.

Exit codes: 0 everything came through, 3 not, 2 wrong options.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import StageName, load_recipe
from seed_dist.errors import ConfigError, SeedDistError
from seed_dist.fsio import folder_lock
from seed_dist.obs.log import get_logger
from seed_dist.proof.certificate import write_certificate
from seed_dist.proof.drawn import draw_workspace
from seed_dist.proof.drilling import Check, Drill
from seed_dist.proof.jobs import Job, LocalJob, Shape, SlurmJob
from seed_dist.proof.trial import Trial

_RECIPE = "glyphs"
_STAGE: StageName = "causal_qformer"
_TWIN = "an undisturbed twin finishes"
_SAVE_EVERY, _BATCH = 15, 16
_LEAST_STEPS = 100  # the disturbances need some, and some must come after them


class DrillError(SeedDistError):
    """Something did not come through."""

    exit_code = 3


def main() -> None:
    args = _parse()
    get_logger()
    shape = _shape(args)
    work = args.work.resolve()
    with folder_lock(work, "seed-dist drill"):
        began_s = time.monotonic()
        draw_workspace(_RECIPE, (), work, _STAGE)
        checks = carry_out(args, work, shape)
        seconds = round(time.monotonic() - began_s, 1)
    passed = all(check.passed for check in checks)
    result = {"passed": passed, "on": args.on, "seconds": seconds, "checks": [vars(check) for check in checks]}
    write_certificate(work / "drill.json", load_recipe(_RECIPE, _trial(work, shape, args.steps).settings), result)
    print(table(checks), f"{seconds:.0f} s, kept in {work / 'drill.json'}", sep="\n")
    if not passed:
        raise DrillError(f"{sum(not check.passed for check in checks)} check(s) failed; the logs are in {work}.")


def carry_out(args: argparse.Namespace, work: Path, shape: Shape) -> list[Check]:
    """Both trainings; the twin first, on SLURM side by side."""
    trial = _trial(work, shape, args.steps)
    twin_run, run = (trial.workspace(name) / _STAGE for name in ("twin", "disturbed"))
    twin = _submit(args.on, trial, twin_run.parent, shape)
    jobs: list[Job] = [twin]
    try:
        checks: list[Check] = []
        watched = Drill(twin, twin_run, args.steps, args.patience * 60, checks)
        if args.on == "local" and not watched.ends(_TWIN):
            return checks
        jobs.append(job := _submit(args.on, trial, run.parent, shape))
        drill = Drill(job, run, args.steps, args.patience * 60, checks)
        if drill.carry_out(shape.ranks - 1) and (args.on == "local" or watched.ends(_TWIN)):
            drill.compare(twin_run)
        return checks
    finally:
        for one in jobs:
            one.cancel()


def _submit(on: str, trial: Trial, workspace: Path, shape: Shape) -> Job:
    arguments, log = trial.arguments(workspace), workspace.with_suffix(".log")
    if on == "local":
        return LocalJob(arguments, shape.ranks, log)
    return SlurmJob(arguments, trial.recipe, workspace, shape, log)


def table(checks: Sequence[Check]) -> str:
    """A line for each check, and below it what to do about one that failed."""
    lines = []
    for check in checks:
        lines.append(f"{'PASS' if check.passed else 'FAIL'}  {check.name:<38}  {check.seen}")
        lines += [f"      to mend: {check.mend}"] if check.mend else []
    return "\n".join(lines)


def _trial(work: Path, shape: Shape, steps: int) -> Trial:
    """Batches are as small as the ranks allow, so that steps are short."""
    batch = shape.ranks * max(1, _BATCH // shape.ranks)
    options = {"steps": steps, "global_batch": batch}
    overrides = tuple(f"{_STAGE}_training.{name}={value}" for name, value in options.items())
    return Trial(_RECIPE, overrides, _STAGE, work, steps, _SAVE_EVERY)


def _shape(args: argparse.Namespace) -> Shape:
    local = args.on == "local"
    shape = Shape(
        args.nodes or (1 if local else 2),
        args.ranks_per_node or (2 if local else 1),
        args.gpus_per_node,
        tuple(args.sbatch),
    )
    problems = []
    if min(shape.nodes, shape.ranks_per_node) < 1 or shape.ranks < 2:
        problems.append(f"--nodes {shape.nodes} and --ranks-per-node {shape.ranks_per_node}: a drill needs 2 ranks")
    if local and shape.nodes > 1:
        problems.append(f"--nodes {shape.nodes} with --on local; this machine is one node, use --on slurm for more")
    if args.steps < _LEAST_STEPS:
        problems.append(f"--steps is {args.steps}; two disturbances need at least {_LEAST_STEPS}")
    if problems:
        raise ConfigError(problems)
    return shape


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", choices=("local", "slurm"), required=True, help="where to run")
    parser.add_argument("--work", type=Path, default=Path("runs/drill"), help="workspace folder (default %(default)s)")
    parser.add_argument("--nodes", type=int, help="nodes of the job (default: 2 on slurm)")
    parser.add_argument("--ranks-per-node", type=int, help="processes per node (default: 1 on slurm, 2 here)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="GPUs per node (default %(default)s)")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a further word for sbatch, for example --partition",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=400,
        help="steps of each training; more where they are short (default %(default)s)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=15.0,
        help="minutes that anything may take, queueing too (default %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
