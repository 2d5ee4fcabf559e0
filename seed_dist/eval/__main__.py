"""Measure what the stages made, on images that training never saw, and write WORK/report.json, WORK/report.html
and WORK/model_card.md.

  python -m seed_dist.eval --recipe glyphs --work runs/demo
  python -m seed_dist.eval --study causality --work runs/studies
  python -m seed_dist.eval --run runs/demo --suite retrieval,codes --data workspace:test
  python -m seed_dist.eval --compare runs/demo/suites runs/mine/suites

Works after any stage: what is not made yet is listed in the report with the command that makes it. Needs no deepspeed.
The page is one file with its pictures inside; it needs no network and reads well on a phone.

A study compares arms that differ in one thing, over several seeds: python -m seed_dist.studies trains them and calls
this command, which writes WORK/STUDY.json, .md and .html. --table prints the Markdown of such a .json again.

Suites make the tables of the papers, on a workspace's images or on public sets, with one process or many (torchrun,
srun), and go on after a kill: the same command again. Every figure comes with its number of examples, a bootstrap
interval, chance and shuffled pairs; OUT/receipt.json has them with the hashes of data and models, OUT/receipt.html
shows examples, OUT/records has one line for each, and `python -m seed_dist.sync OUT` copies them to MLflow. --compare
tells whether two receipts differ by more than chance, example by example. docs/evaluation.md explains all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from seed_dist.cli import end_process
from seed_dist.config import load_recipe
from seed_dist.errors import DataError, SeedDistError
from seed_dist.eval.studies.definitions import STUDY_NAMES
from seed_dist.fsio import write_text
from seed_dist.obs.log import get_logger, quieten_libraries, quieten_other_ranks
from seed_dist.suites.options import add_suite_options, request_of
from seed_dist.suites.selection import SUITES
from seed_dist.topology import world_from_environment

_PATIENCE_S = 2.0


def main() -> None:
    args = _parse()
    if args.table:
        print(_table(args.table), end="")
    elif args.compare:
        print(_compared(*args.compare))
    elif args.suite:
        _suites(args)
    elif not args.work.is_dir():
        raise DataError(f"--work {args.work} is no folder. Give the workspace that the stages were trained in.")
    else:
        quieten_libraries()
        (_study if args.study else _report)(args)


def _table(path: Path) -> str:
    from seed_dist.eval.studies.definitions import study_of
    from seed_dist.eval.studies.table import markdown

    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return markdown(study_of(result["study"]), result)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(
            f"--table {path} is no measured study ({type(error).__name__}: {error}). Give a WORK/STUDY.json that "
            "`python -m seed_dist.eval --study` wrote."
        ) from error


def _study(args: argparse.Namespace) -> None:
    get_logger()

    import torch

    from seed_dist.eval.studies.definitions import study_of
    from seed_dist.eval.studies.run import measure_study

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for path in measure_study(args.work, study_of(args.study), args.split, device):
        print(path)


def _report(args: argparse.Namespace) -> None:
    recipe = load_recipe(args.recipe, args.set)
    log, started = get_logger(), time.monotonic()

    import torch

    from seed_dist.eval import figures, model_card, provenance
    from seed_dist.eval.report import write_report
    from seed_dist.eval.results import by_cause
    from seed_dist.eval.suite import evaluate
    from seed_dist.eval.workspace import Invocation, Workspace
    from seed_dist.obs.memory import watched_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workspace = Workspace(recipe, Invocation(args.recipe, args.work, tuple(args.set)), device)
    with watched_memory() as peak:
        results = evaluate(workspace, args.split, args.codes)
    results.numbers["provenance"] = provenance.provenance(recipe, args.work)
    results.numbers["sizes"] = provenance.sizes(workspace)
    results.numbers["seconds"] = {**provenance.seconds(args.work), "eval": round(time.monotonic() - started, 1)}
    results.numbers["peak_memory_bytes"] = {**provenance.peak_memory_bytes(args.work), "eval": peak.size_bytes}
    results.numbers |= figures.described(results.numbers)
    folder = args.out or args.work
    for path in write_report(folder, results):
        print(path)
    write_text(folder / model_card.NAME, model_card.model_card(results.numbers, recipe, args.work))
    print(folder / model_card.NAME)
    for gap, names in by_cause(results.gaps):
        log.info("not measured: %s. %s%s", ", ".join(names), gap.why, f" Run: {gap.command}" if gap.command else "")
    if results.failures:
        listed = "\n".join(f"  - {failure.part}: {failure.why}" for failure in results.failures)
        raise DataError(f"the report was written, but these parts of it failed:\n{listed}")


def _compared(a: Path, b: Path) -> str:
    from seed_dist.suites.compare import compare, text

    return text(compare(a, b), a, b)


def _suites(args: argparse.Namespace) -> None:
    request, world = request_of(args), world_from_environment()
    quieten_other_ranks(world.rank)
    quieten_libraries()

    from seed_dist.suites.command import run

    try:
        run(request, world)
    except SeedDistError as error:
        if world.is_main:
            raise
        get_logger().warning("%s", str(error).splitlines()[0])
        time.sleep(_PATIENCE_S)  # launchers kill the others when the first one ends; rank 0 is to have told of it
        sys.exit(error.exit_code)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", help="name of a recipe, or a .yaml file")
    what.add_argument("--study", choices=STUDY_NAMES, help="measure the arms of a study")
    what.add_argument("--suite", metavar="NAME,...", help=f"measure by suites: {', '.join(SUITES)}")
    what.add_argument("--compare", type=Path, nargs=2, metavar="OUT", help="whether two receipts differ by chance")
    what.add_argument("--table", type=Path, metavar="STUDY.json", help="print the table of a measured study")
    parser.add_argument("--work", type=Path, help="workspace folder; with --study, the folder of its arms")
    parser.add_argument("--split", default="test", help="split to measure (default %(default)s)")
    parser.add_argument("--codes", type=int, nargs="+", default=[], metavar="N", help="codes whose images are shown")
    parser.add_argument(
        "--out", type=Path, help="folder for what is written (default: the workspace; for suites DIR/suites)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value"
    )
    add_suite_options(parser)
    args = parser.parse_args()
    if args.work is None and (args.recipe or args.study):
        parser.error("--work is needed")
    return args


if __name__ == "__main__":
    end_process(main)
