"""Trains the arms of studies over several seeds and has them measured: small science with controls.

  python -m seed_dist.studies causality --work runs/studies
  python -m seed_dist.studies causality order pixels prefix --work runs/studies --seeds 0,1,2
  python -m seed_dist.studies order --work runs/trial --seeds 0 --scale 0.05 --set lora_training.steps=60

STUDIES
An arm is the recipe with one thing changed. The pictures and the frozen encoders' features are made once, arms take
over from each other what they do not differ in, and each training is the ordinary command, shown as it is run. Stopped
at any moment, the same command goes on where it was; several may run at once with other --seeds.
At the end of each study: python -m seed_dist.eval --study NAME --work WORK, which writes WORK/NAME.json, .md and .html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.demo import run_step
from seed_dist.errors import ConfigError
from seed_dist.eval.studies.definitions import SEEDS, STUDIES, STUDY_NAMES, Arm, Study, study_of
from seed_dist.eval.studies.workspaces import arm_folder, record_arm
from seed_dist.fsio import folder_lock
from seed_dist.ops.chain import Step
from seed_dist.studies.training import COMMON, Plan, with_parents


def main() -> None:
    args = _parse()
    plan = Plan(args.recipe, args.work.resolve(), args.ranks, args.scale, tuple(args.set))
    studies = [study_of(name) for name in dict.fromkeys(args.study)]
    plan.common_steps()  # wrong options are told before anything is made
    with folder_lock(plan.work / COMMON, "seed-dist studies"):
        for step in plan.common_steps():
            run_step(plan.work / COMMON, step)
    for seed in args.seeds:
        for arm in with_parents(tuple(arm for study in studies for arm in study.arms)):
            _train(plan, arm, seed)
    for study in studies:
        _measure(plan, study, args.split)


def _train(plan: Plan, arm: Arm, seed: int) -> None:
    folder = arm_folder(plan.work, arm, seed)
    with folder_lock(folder, "seed-dist studies"):
        plan.link(arm, seed)
        for step in plan.steps(arm, seed):
            run_step(folder, step)
        record_arm(folder, plan.record(arm, seed))


def _measure(plan: Plan, study: Study, split: str) -> None:
    """Always run: what was measured already is kept by the command itself."""
    options = ["--study", study.name, "--work", str(plan.work), "--split", split]
    step = Step(f"study_{study.name}", (sys.executable, "-m", "seed_dist.eval", *options))
    run_step(plan.work, step, again=True)


def _parse() -> argparse.Namespace:
    listed = "\n".join(f"  {study.name:<15} {study.question}" for study in STUDIES)
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.studies",
        description=(__doc__ or "").replace("STUDIES", f"{listed}\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="+", choices=STUDY_NAMES, help="which studies", metavar="STUDY")
    parser.add_argument("--work", type=Path, required=True, help="folder of all arms; studies share it")
    parser.add_argument(
        "--seeds", type=_seeds, default=SEEDS, metavar="N,N,...", help="seeds of each arm (default 0,1,2)"
    )
    parser.add_argument("--split", default="test", help="split to measure (default %(default)s)")
    parser.add_argument("--recipe", default="glyphs", help="recipe name or .yaml file (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each training (default %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes to draw (default %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value in all arms"
    )
    return parser.parse_args()


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise ConfigError([f"--seeds is {text!r}, but numbers with commas between them are needed: 0,1,2"]) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
