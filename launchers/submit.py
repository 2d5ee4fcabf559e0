"""Submits steps of the pipeline with submitit: as SLURM jobs that wait for each other, or one by one on this machine.

    python launchers/submit.py --recipe glyphs --work runs/demo --on local
    python launchers/submit.py --recipe glyphs --work runs/big --on slurm --nodes 8 --ranks-per-node 8 \
        --steps train_causal_qformer encode_causal train_codebook
    python launchers/submit.py --recipe glyphs --work runs/big --on slurm --dry-run        (the batch scripts, shown)

The steps are those of `make demo`; each runs the same command as there, and one that is finished does nothing. SLURM
jobs run a copy of the code as it is now (WORK/submitit/code-TIME): what is changed later does not reach them. Paths in
--set must therefore be absolute.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import load_recipe
from seed_dist.errors import ConfigError
from seed_dist.ops.chain import ROOT, Chain, Step


def main() -> None:
    args = _parse()
    steps = _chosen_steps(args)
    _check(args)

    from launchers.jobs import Place, Shape, batch_script, run_here, submit_to_slurm
    from launchers.snapshot import copy_code

    local = args.on == "local"
    shape = Shape(
        nodes=args.nodes or (1 if local else 8),
        ranks_per_node=args.ranks_per_node or (2 if local else 8),
        gpus_per_node=args.gpus_per_node if args.gpus_per_node is not None else (0 if local else 8),
        hours=args.hours,
        partition=args.partition,
        shard_tasks=args.shard_tasks,
        encode_tasks=args.encode_tasks,
        cpus_per_task=args.cpus_per_task,
    )
    work = args.work.resolve()
    code = ROOT if local else work / "submitit" / f"code-{datetime.now():%Y%m%d-%H%M%S-%f}"
    place = Place(code, work, args.recipe)
    if args.dry_run:
        for step in steps:
            print(f"{step.name}: {step.shown()}\n" if local else f"### {step.name}\n{batch_script(step, shape, place)}")
    elif local:
        run_here(steps, shape, place)
    else:
        copy_code(ROOT, code)
        submit_to_slurm(steps, shape, place, args.after)


def _chosen_steps(args: argparse.Namespace) -> list[Step]:
    recipe = str(Path(args.recipe).resolve()) if args.recipe.endswith((".yaml", ".yml")) else args.recipe
    data = args.data.resolve() if args.data else None
    chain = Chain(recipe, args.work.resolve(), data, overrides=tuple(args.set), scale=args.scale)
    steps = chain.steps(load_recipe(args.recipe, args.set))
    unknown = set(args.steps) - {step.name for step in steps}
    if unknown:
        names = ", ".join(step.name for step in steps)
        raise ConfigError([f"--steps {' '.join(sorted(unknown))} is unknown; the steps are {names}"])
    return [step for step in steps if not args.steps or step.name in args.steps]


def _check(args: argparse.Namespace) -> None:
    counts = {"--shard-tasks": args.shard_tasks, "--encode-tasks": args.encode_tasks}
    problems = [f"{name} is {count}; at least 1 is needed" for name, count in counts.items() if count < 1]
    if args.on == "local":
        if (args.nodes or 1) > 1:
            problems.append(f"--nodes {args.nodes} with --on local; this machine is one node, use --on slurm for more")
        if args.after:
            problems.append(f"--after {args.after} with --on local; only a SLURM job can wait for another")
    if problems:
        raise ConfigError(problems)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", required=True, help="recipe name or .yaml file")
    add("--work", type=Path, required=True, help="workspace folder, on a disk that all nodes see")
    add("--data", type=Path, help="folder of images and captions; default: drawn scenes")
    add("--scale", type=float, default=1.0, help="how many scenes are drawn, of the full number (default %(default)s)")
    add("--on", choices=("slurm", "local"), required=True, help="where to run")
    add("--steps", nargs="+", default=[], metavar="STEP", help="only these steps (default: all)")
    add("--after", metavar="JOB", help="SLURM job that must have succeeded before the first step")
    add("--nodes", type=int, help="nodes of a training (default: 8 on slurm, 1 here)")
    add("--ranks-per-node", type=int, help="processes per node (default: 8 on slurm, 2 here)")
    add("--gpus-per-node", type=int, help="GPUs per node (default: 8 on slurm, 0 here)")
    add("--cpus-per-task", type=int, default=4, help="CPUs of every process, on slurm (default %(default)s)")
    add("--shard-tasks", type=int, default=1, metavar="N",
        help="jobs that share the sharding of one split, as an array (default %(default)s)")  # fmt: skip
    add("--encode-tasks", type=int, default=1, metavar="N",
        help="jobs that share an encoding, as an array (default %(default)s)")  # fmt: skip
    add("--hours", type=int, default=24, help="time limit of each job (default %(default)s)")
    add("--partition", help="SLURM partition (default: the cluster's)")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change the recipe")
    add("--dry-run", action="store_true", help="show what would be submitted, and submit nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
