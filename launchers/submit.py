"""Submits steps of the pipeline with submitit: as SLURM jobs that wait for each other, or one by one on this machine.

    python launchers/submit.py --recipe glyphs --work runs/demo --on local
    python launchers/submit.py --recipe glyphs --work runs/big --on slurm --nodes 8 --ranks-per-node 8 \
        --steps train_causal_qformer encode_causal train_codebook

The steps are those of `make demo`; each runs the same command as there, and one that is finished does nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.config import load_recipe
from seed_dist.errors import ConfigError, SeedDistError
from seed_dist.ops.chain import Chain, Step


@dataclass(frozen=True)
class Shape:
    """What a job asks for. Trainings get all of it, the other steps one task of it.

    Steps that make shards of images are arrays of `shard_tasks` jobs, which share the work.
    """

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    hours: int
    partition: str | None
    shard_tasks: int = 1


def program_and_arguments(step: Step) -> tuple[str, tuple[str, ...]]:
    """The step's module or script and its arguments, without Python and torchrun: submitit starts the ranks itself."""
    words = step.command[1:]
    last_module = max((at for at, word in enumerate(words) if word == "-m"), default=-1)
    return words[last_module + 1], tuple(words[last_module + 2 :])


def parameters(step: Step, shape: Shape, on: str, after: str | None) -> dict[str, Any]:
    """Arguments for submitit's AutoExecutor; `after` is the SLURM job that must have succeeded before."""
    trains = step.name.startswith("train_")
    ranks = shape.ranks_per_node if trains else 1
    chosen: dict[str, Any] = {
        "name": f"seed-{step.name}",
        "nodes": shape.nodes if trains else 1,
        "tasks_per_node": ranks,
        "gpus_per_node": min(shape.gpus_per_node, ranks),
        "timeout_min": shape.hours * 60,
    }
    if on == "slurm":
        chosen["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
        chosen |= {"slurm_partition": shape.partition} if shape.partition else {}
        chosen |= {"slurm_dependency": f"afterok:{after}"} if after else {}
    return chosen


def submit(steps: Sequence[Step], shape: Shape, on: str, folder: Path) -> None:
    """Submit every step after the one before it; on this machine, wait for each. SeedDistError names what failed."""
    import submitit

    from launchers.task import Task

    after: str | None = None
    for step in steps:
        executor = submitit.AutoExecutor(folder=folder, cluster=on)
        executor.update_parameters(**parameters(step, shape, on, after))
        copies = shape.shard_tasks if step.name.startswith("shard_") else 1
        with executor.batch() if copies > 1 else nullcontext():
            jobs = [executor.submit(Task(*program_and_arguments(step))) for _ in range(copies)]
        after = jobs[0].job_id.partition("_")[0] if on == "slurm" else jobs[0].job_id  # of an array: of all its tasks
        for job in jobs:
            print(f"{step.name}: job {job.job_id}, log {job.paths.stdout}", flush=True)
        for job in jobs if on == "local" else ():
            failure = job.exception()  # waits for all tasks
            if failure is not None:
                raise SeedDistError(f"step {step.name} failed: {failure}\nIts log is {job.paths.stderr}.")


def main() -> None:
    args = _parse()
    data = args.data.resolve() if args.data else None
    chain = Chain(args.recipe, args.work.resolve(), data, overrides=tuple(args.set))
    steps = chain.steps(load_recipe(args.recipe, args.set))
    chosen = [step for step in steps if not args.steps or step.name in args.steps]
    unknown = set(args.steps) - {step.name for step in steps}
    if unknown:
        names = ", ".join(step.name for step in steps)
        raise ConfigError([f"--steps {' '.join(sorted(unknown))} is unknown; the steps are {names}"])
    local = args.on == "local"
    shape = Shape(
        args.nodes or (1 if local else 8),
        args.ranks_per_node or (2 if local else 8),
        args.gpus_per_node if args.gpus_per_node is not None else (0 if local else 8),
        args.hours,
        args.partition,
        args.shard_tasks,
    )
    if shape.shard_tasks < 1:
        raise ConfigError([f"--shard-tasks is {shape.shard_tasks}; at least 1 is needed"])
    if local and shape.nodes > 1:
        raise ConfigError([f"--nodes {shape.nodes} with --on local; this machine is one node, use --on slurm for more"])
    if args.dry_run:
        for step in chosen:
            print(step.name, parameters(step, shape, args.on, None), *program_and_arguments(step), sep="\n  ")
        return
    submit(chosen, shape, args.on, args.work.resolve() / "submitit")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="recipe name or .yaml file")
    parser.add_argument("--work", type=Path, required=True, help="workspace folder, on a disk that all nodes see")
    parser.add_argument("--data", type=Path, help="folder of images and captions; default: drawn scenes")
    parser.add_argument("--on", choices=("slurm", "local"), required=True, help="where to run")
    parser.add_argument("--steps", nargs="+", default=[], metavar="STEP", help="only these steps (default: all)")
    parser.add_argument("--nodes", type=int, help="nodes of a training (default: 8 on slurm, 1 here)")
    parser.add_argument("--ranks-per-node", type=int, help="processes per node (default: 8 on slurm, 2 here)")
    parser.add_argument("--gpus-per-node", type=int, help="GPUs per node (default: 8 on slurm, 0 here)")
    parser.add_argument("--shard-tasks", type=int, default=1, metavar="N",
        help="jobs that share the sharding of one split, as an array (default %(default)s)")  # fmt: skip
    parser.add_argument("--hours", type=int, default=24, help="time limit of each job (default %(default)s)")
    parser.add_argument("--partition", help="SLURM partition (default: the cluster's)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change the recipe")
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted, and submit nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
