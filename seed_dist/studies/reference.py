"""Trains a recipe with several seeds and reduces the journals to bands that other runs are judged by.

  python -m seed_dist.studies.reference --work runs/reference                       trains three seeds, then reduces
  python -m seed_dist.studies.reference --work runs/reference --stages codebook --out bands.json
  python -m seed_dist.studies.reference --reduce runs/a runs/b runs/c --out bands.json    of workspaces that there are

Scenes and the frozen encoders' features are made once; WORK/seed-N are ordinary workspaces. The file is written to
recipes/NAME.reference.json of this package unless --out says where to; status, live page and report read it there.
Stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.config import STAGES, load_recipe
from seed_dist.demo import run_step
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.eval.studies.definitions import SEEDS
from seed_dist.fsio import folder_lock, write_text
from seed_dist.ops.chain import Chain
from seed_dist.status.facts import RunReader
from seed_dist.status.reference import MOST_RUNS, Band, band_of, comparable_identity, means, reference_path
from seed_dist.studies.training import link

_POINTS = 25  # of a band
_DIGITS = 4
_COMMON = "common"
# Times of this machine, and what the recipe itself sets.
_NOT_JUDGED = frozenset(
    {"lr", "step_s", "data_wait_s", "own_s", "samples_per_s", "loss_scale", "checkpoint_s", "scored_tokens"}
)


def main() -> None:
    args = _parse()
    works = args.reduce or _trained(args)
    if not 2 <= len(works) <= MOST_RUNS:
        raise ConfigError([f"{len(works)} run(s) are given, but a band needs 2 to {MOST_RUNS}"])
    out = args.out or reference_path(args.recipe)
    write_text(out, _text(reduce_workspaces(works, args.stages)))
    print(out)


def reduce_workspaces(works: Sequence[Path], stages: Sequence[str]) -> dict[str, Any]:
    """What the file holds. MismatchError where runs differ in more than their seeds."""
    reduced: dict[str, Any] = {}
    for stage in stages:
        readers = [RunReader(work / stage) for work in works]
        unfinished = [str(reader.folder) for reader in readers if reader.facts().state != "finished"]
        if unfinished:
            raise ConfigError([f"{folder} is not finished, so it is no reference" for folder in unfinished])
        reduced[stage] = _reduced(readers)
    return {"made_by": "python -m seed_dist.studies.reference", "stages": reduced}


def _reduced(readers: Sequence[RunReader]) -> dict[str, Any]:
    first, *others = [comparable_identity(reader.record["identity"]) for reader in readers]
    for other in others:
        if other != first:
            names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
            what = {name: other.get(name) for name in names}
            raise MismatchError("a reference run's options", what, {n: first.get(n) for n in names}, "Leave it out.")
    curves = [reader.history.curves for reader in readers]
    steps = int(readers[0].training["steps"])
    bands = {}
    for name in curves[0]:
        if name in _NOT_JUDGED or not all(name in one for one in curves):
            continue
        is_sparse = name.startswith("validation/")
        evenly = {round(i * steps / _POINTS) for i in range(1, _POINTS + 1)}
        edges = sorted({int(x) for x in curves[0][name].xs} if is_sparse else evenly)
        values = [means(one[name], edges) for one in curves]
        whole = [i for i in range(len(edges)) if all(row[i] is not None for row in values)]
        if whole:
            rows = [[value for i in whole if (value := row[i]) is not None] for row in values]
            bands[name] = _rounded(band_of([edges[i] for i in whole], rows))
    runs = [
        {
            "seed": reader.record["recipe"]["seed"],
            "fingerprint": reader.record["fingerprint"],
            "revision": reader.record["git"]["revision"],
            "world_size": reader.record["world_size"],
        }
        for reader in readers
    ]
    return {"identity": first, "samples": readers[0].samples, "runs": runs, "bands": bands}


def _rounded(band: Band) -> dict[str, Any]:
    values: Mapping[str, list[float]] = dataclasses.asdict(band)
    return {name: [float(f"{value:.{_DIGITS}g}") if name != "steps" else value for value in row]
            for name, row in values.items()}  # fmt: skip


def _text(values: Mapping[str, Any]) -> str:
    """A list of numbers on one line, so that a new file can be compared with the old one."""
    return re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), json.dumps(values, indent=1)) + "\n"


def _trained(args: argparse.Namespace) -> list[Path]:
    """The workspaces, with the stages trained in order up to the last that is asked for."""
    work = args.work.resolve()
    last = max(STAGES.index(stage) for stage in args.stages)
    recipe = load_recipe(args.recipe, args.set)
    common = Chain(args.recipe, work / _COMMON, None, args.ranks, 1.0, tuple(args.set)).steps(recipe)
    names = [step.name for step in common]
    with folder_lock(work / _COMMON, "reference runs"):
        for step in common[: names.index("encode_images") + 1]:
            run_step(work / _COMMON, step)
    found = []
    for seed in args.seeds:
        folder = work / f"seed-{seed}"
        with folder_lock(folder, "reference runs"):
            for part in ("images", "features/patches", f"features/{recipe.codebook.generation_target}"):
                link(folder / part, work / _COMMON / part)
            steps = Chain(args.recipe, folder, None, args.ranks, 1.0, (*args.set, f"seed={seed}")).steps(recipe)
            for step in steps[names.index("encode_images") + 1 : names.index(f"train_{STAGES[last]}") + 1]:
                run_step(folder, step)
        found.append(folder)
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.studies.reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--work", type=Path, help="folder of the workspaces that are made")
    what.add_argument("--reduce", type=Path, nargs="+", metavar="WORK", help="finished workspaces; nothing is trained")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="which stages (default: all)")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N", help="default: 0 1 2")
    add("--recipe", default="glyphs", help="recipe name (default %(default)s)")
    add("--ranks", type=int, default=1, help="processes of each training (default %(default)s)")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value")
    add("--out", type=Path, help="where the file goes (default: beside the recipe)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
