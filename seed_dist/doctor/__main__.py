"""Finds what would stop or slow a run, and prints the command that mends it.

  python -m seed_dist.doctor                                       this machine: Python, torch, GPUs, compiled ops
  python -m seed_dist.doctor --recipe seed_v2 --work runs/big --hardware v100   on a login node, before sbatch
  python -m seed_dist.doctor --build-ops                           also compiles DeepSpeed's optimizer for this CPU
  srun python -m seed_dist.doctor --preflight --work runs/big      in an allocation, one process per rank, 2 minutes
  PREFLIGHT=1 sbatch slurm/tokenizer.sbatch                        the same by the job itself, before its work
  torchrun --standalone --nproc-per-node=2 -m seed_dist.doctor --preflight --work runs/demo

On a login node nothing is written and no GPU is needed: --hardware says what the nodes have. The preflight measures
matrix products, transfers between ranks, an all-reduce, reading from the disk of --work, and clocks; the odd ones out
are named, and the last line is the option for sbatch that leaves their nodes out.

Exit codes: 0 nothing has failed (warnings may stand), 1 something has, 2 wrong options.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from seed_dist.cli import end_process
from seed_dist.config import Recipe, load_recipe
from seed_dist.doctor import services, software
from seed_dist.doctor.finding import Finding, findings_text, has_failed
from seed_dist.errors import ConfigError
from seed_dist.plan.hardware import Hardware, load_hardware
from seed_dist.topology import world_from_environment

_TIMEOUT_S = 100.0  # of a collective of the preflight


def main() -> None:
    args = _parse()
    counts = ("nodes", "gpus", "pairs")
    problems = [f"--{n} is {v}; at least 1 is needed" for n in counts if (v := getattr(args, n)) < 1]
    if args.work is not None and args.recipe is None and not args.preflight:
        problems.append("--work is given without --recipe, which says what belongs in it")
    if problems:
        raise ConfigError(problems)
    if args.preflight:
        _preflight(args)
        return
    hardware = load_hardware(args.hardware) if args.hardware else None
    recipe = load_recipe(args.recipe, args.set) if args.recipe else None
    found = examine(args, recipe, hardware)
    print(json.dumps([dataclasses.asdict(one) for one in found], indent=2) if args.json else findings_text(found))
    sys.exit(int(has_failed(found)))


def examine(args: argparse.Namespace, recipe: Recipe | None, hardware: Hardware | None) -> list[Finding]:
    """Everything that can be seen from here, cheapest first."""
    found = [software.python_finding()]
    if args.build_ops:
        found.append(software.build_ops())
    torch = software.probe_torch()
    if isinstance(torch, Finding):
        found.append(torch)
    else:
        target = (hardware.name, hardware.compute_capability) if hardware else None
        precision = recipe.engine.precision if recipe else "auto"
        found += software.torch_findings(torch, target, precision)
        if not args.build_ops:
            found.append(software.ops_finding(torch, on_gpu=bool(torch.gpus) or hardware is not None))
    found.append(services.mlflow_finding(os.environ))
    if recipe is not None:
        found += _for_recipe(args, recipe, hardware)
    return found


def _for_recipe(args: argparse.Namespace, recipe: Recipe, hardware: Hardware | None) -> list[Finding]:
    from seed_dist.doctor import storage
    from seed_dist.plan.request import Cluster, Request

    found = storage.asset_findings(recipe, args.recipe)
    environment = {**os.environ, "RECIPE": args.recipe}
    if args.work is not None:
        environment["WORK"] = str(args.work)
        found += storage.workspace_findings(recipe, args.recipe, args.work)
        cluster = Cluster(args.nodes, args.gpus, hardware or load_hardware("v100"))
        found.append(storage.disk_finding(Request(recipe, cluster, args.pairs), args.work))
    options = [f"--nodes={args.nodes}", f"--ntasks-per-node={args.gpus}", f"--gpus-per-node={args.gpus}"]
    found.append(services.sbatch_finding(args.sbatch, options, environment))
    return found


def _preflight(args: argparse.Namespace) -> None:
    from seed_dist.dist.launch import limit_threads, open_comm
    from seed_dist.doctor.preflight import findings, measure

    world = world_from_environment()
    limit_threads(world)
    with open_comm(world, _TIMEOUT_S) as comm:
        measured = measure(comm, args.work or Path())
    told, exclude = findings(measured)
    if world.is_main:
        report = {**measured, "findings": [dataclasses.asdict(one) for one in told], "exclude": exclude}
        print(json.dumps(report, indent=2) if args.json else "\n".join([findings_text(told), exclude]).strip())
    sys.exit(int(has_failed(told)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", help="name of a recipe, or a .yaml file: also looks at its weights, and at sbatch")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value")
    add("--work", type=Path, help="workspace: also looks at its features and its disk (needs --recipe)")
    add("--hardware", help="what the nodes have: v100, a100, h100, h200 or a .json file (default: what is here)")
    add("--nodes", type=int, default=8, help="nodes of the job (default %(default)s)")
    add("--gpus", type=int, default=8, help="GPUs per node (default %(default)s)")
    add("--pairs", type=int, default=5_000_000, help="image-text pairs to plan the disk for (default %(default)s)")
    add("--sbatch", type=Path, default=Path("slurm/tokenizer.sbatch"), help="the job to try (default %(default)s)")
    add("--build-ops", action="store_true", help="compile DeepSpeed's optimizer for this CPU now, once")
    add("--preflight", action="store_true", help="measure the nodes of this allocation instead")
    add("--json", action="store_true", help="all findings, as JSON")
    return parser.parse_args()  # fmt: skip


if __name__ == "__main__":
    end_process(main)
