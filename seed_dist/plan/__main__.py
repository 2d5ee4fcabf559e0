"""Say before a run what it takes, from the recipe's numbers alone: no GPU, no weights, no data.

  python -m seed_dist.plan --recipe seed_v2 --nodes 8 --gpus 8 --hardware v100
  python -m seed_dist.plan --recipe seed_v2 --hardware a100 --pairs 5000000 50000000 500000000   (a table of sizes)
  python -m seed_dist.plan --recipe mine.yaml --pairs-of cc3m=3000000 coco=118000   (a mixture: passes over each)
  python -m seed_dist.plan --recipe seed_v2 --hardware a100 --sbatch tokenizer > tokenizer.sbatch
  python -m seed_dist.plan --recipe seed_v2 --hardware a100 --measure runs/short/codebook
  python -m seed_dist.plan --compare runs/short/codebook --hardware a100 --measure runs/short/codebook

Hours are a range: a training reaches between the low and the high share of the GPU's peak (--share-of-peak, or
--measure a short run). Everything that is assumed stands at the end, with its source.

The hardware is v100, a100, h100, h200 or a JSON file like those in seed_dist/plan/hardware.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import STAGES, Recipe, load_recipe
from seed_dist.errors import ConfigError
from seed_dist.plan.batch_scripts import NAMES, batch_script
from seed_dist.plan.comparison import compare, measured_shares, request_of
from seed_dist.plan.hardware import load_hardware
from seed_dist.plan.measured import read_run
from seed_dist.plan.planner import make_plan, make_scale
from seed_dist.plan.report import comparison_text, plan_text, scale_text
from seed_dist.plan.request import Cluster, Range, Request


def main() -> None:
    args = _parse()
    problems = _problems(args)
    try:
        hardware = load_hardware(args.hardware)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    cluster = Cluster(
        nodes=args.nodes,
        gpus=args.gpus,
        hardware=hardware,
        network_gbit=args.network_gbit,
        storage_gbit=args.storage_gbit,
        wall_limit_hours=args.wall_limit_hours,
        node_mtbf_hours=args.mtbf,
        price_per_gpu_hour=args.price_per_gpu_hour,
    )
    if args.compare is not None:
        print(_comparison(args, cluster))
    elif args.sbatch is not None:
        load_recipe(args.recipe, args.set)  # wrong names and values are refused here, not in the queue
        print(batch_script(args.sbatch, args.recipe, args.set, cluster), end="")
    else:
        print(_planned(args, cluster))


def _planned(args: argparse.Namespace, cluster: Cluster) -> str:
    recipe = load_recipe(args.recipe, args.set)
    pairs_of = _pairs_of(args.pairs_of, recipe)
    request = Request(
        recipe=recipe,
        cluster=cluster,
        pairs=sum(pairs_of.values()) or args.pairs[0],
        pairs_of=pairs_of,
        views=args.views,
        feature_dtype=args.feature_dtype,
        caption_bytes=args.caption_bytes,
        share_of_peak=_share(args.share_of_peak),
        shares=measured_shares(args.measure, cluster),
        stages=tuple(args.stages),
    )
    if len(args.pairs) > 1:
        scales = [make_scale(request, pairs) for pairs in args.pairs]
        return json.dumps([asdict(scale) for scale in scales], indent=2) if args.json else scale_text(scales)
    plan = make_plan(request)
    return json.dumps(plan.as_dict(), indent=2) if args.json else plan_text(plan)


def _comparison(args: argparse.Namespace, cluster: Cluster) -> str:
    run = read_run(args.compare)
    own = request_of(run, cluster)
    shares = measured_shares(args.measure, cluster)
    rows = compare(run, own.calibrated(_share(args.share_of_peak), shares))
    return json.dumps([asdict(row) for row in rows], indent=2) if args.json else comparison_text(rows)


def _problems(args: argparse.Namespace) -> list[str]:
    problems = []
    if args.recipe is None and args.compare is None:
        problems.append("--recipe is missing: the name of a recipe, or a .yaml file")
    problems += [
        f"--{name} is {getattr(args, name)}, but at least 1 is needed"
        for name in ("nodes", "gpus", "views")
        if getattr(args, name) < 1
    ]
    problems += [f"--pairs holds {pairs}, but at least 1 is needed" for pairs in args.pairs if pairs < 1]
    positive = ("network_gbit", "storage_gbit", "mtbf", "caption_bytes")
    problems += [
        f"--{name.replace('_', '-')} is {getattr(args, name)}, but must be more than 0"
        for name in positive
        if getattr(args, name) <= 0
    ]
    if args.wall_limit_hours <= 0.1:
        problems.append(f"--wall-limit-hours is {args.wall_limit_hours}, but the last 5 minutes go into saving")
    try:
        _share(args.share_of_peak)
    except ConfigError as error:
        problems += error.problems
    return problems


def _pairs_of(items: Sequence[str], recipe: Recipe) -> dict[str, int]:
    """SPLIT=N for each split of the recipe, or nothing."""
    counts = {split: count for split, _, count in (item.partition("=") for item in items)}
    if not counts:
        return {}
    problems = [
        f"--pairs-of {split}={count}: give a whole number of pairs, at least 1"
        for split, count in counts.items()
        if not (count.isdecimal() and int(count))
    ]
    if sorted(item.partition("=")[0] for item in items) != list(recipe.data.counts):
        problems.append(
            f"--pairs-of names {', '.join(sorted(counts))}, but the splits of the recipe's data.mixture are "
            f"{', '.join(recipe.data.counts)}: give each of those once"
        )
    if problems:
        raise ConfigError(problems)
    return {split: int(count) for split, count in counts.items()}


def _share(text: str | None) -> Range | None:
    """LOW-HIGH as two numbers above 0, at most 1."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high <= 1:
        raise ConfigError([f"--share-of-peak is {text!r}; give two shares of 1, such as 0.15-0.40"])
    return low, high


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", help="name of a recipe, or a .yaml file")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="only these (default: all)")
    add("--nodes", type=int, default=8, help="nodes (default %(default)s)")
    add("--gpus", type=int, default=8, help="GPUs per node (default %(default)s)")
    add("--hardware", default="v100", help="v100, a100, h100, h200 or a .json file (default %(default)s)")
    add(
        "--pairs",
        type=int,
        nargs="+",
        default=[5_000_000],
        metavar="N",
        help="image-text pairs (default 5000000); several give a table of what one pass over each takes",
    )
    add(
        "--pairs-of",
        nargs="+",
        default=[],
        metavar="SPLIT=N",
        help="pairs of each split of the recipe's mixture, in the place of --pairs; shows the passes over each",
    )
    add("--views", type=int, default=1, help="augmented views of an image that are stored (default %(default)s)")
    add("--feature-dtype", choices=("fp16", "int8"), default="fp16", help="of patches (default %(default)s)")
    add("--caption-bytes", type=int, default=60, help="mean length of a caption (default %(default)s)")
    add("--share-of-peak", metavar="LOW-HIGH", help="share of the GPU's peak that is reached (default: the hardware's)")
    add(
        "--measure",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="take the share of a stage from a short run on this hardware (a folder WORK/STAGE)",
    )
    add("--compare", type=Path, metavar="RUN", help="the plan of a run beside what it did (a folder WORK/STAGE)")
    add("--network-gbit", type=float, default=100.0, help="per node and direction (default %(default)s)")
    add("--storage-gbit", type=float, default=10.0, help="per node (default %(default)s)")
    add("--wall-limit-hours", type=float, default=24.0, help="time limit of a job (default %(default)s)")
    add("--mtbf", type=float, default=6300.0, metavar="HOURS", help="between failures of a node (default %(default)s)")
    add("--price-per-gpu-hour", type=float, help="in any currency; without it no price is given")
    add("--json", action="store_true", help="every number, as JSON")
    add("--sbatch", choices=NAMES, help="print that batch script with this plan's nodes, GPUs, time limit and recipe")
    return parser.parse_args()  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
