"""Proves that a run of yours resumes exactly: kills a short one, stops it, and compares it with one left alone.

  python -m seed_dist.prove_resume --recipe glyphs --work runs/demo
  python -m seed_dist.prove_resume --recipe seed_v2 --work runs/big --stage codebook --small
  python -m seed_dist.prove_resume --recipe glyphs --work runs/demo --stage lora --ranks 2,1,4
  python -m seed_dist.prove_resume --work runs/trial --draw        (no data yet: scenes are drawn)

Each stage is trained for a few steps three times, by the command that you will use, with your recipe, overrides and
features, in workspaces below WORK/proofs: straight; and with a kill -9 of one rank, a stop signal to one rank and two
resumptions, at places drawn from --seed. Then samples, losses and figures of every step, and parameters, Adam's
moments, buffers and counters at the end are compared bit by bit. The answer is PASS, or FAIL with the first difference;
WORK/proofs/STAGE/resume.json keeps what was compared, with versions, hardware and recipe. With --ranks A,B,... the
resumed parts also run on A, B, ... ranks in turn: the samples must be the same, the losses within 1e-5.

Outside SLURM the ranks are started by torchrun; inside an allocation (salloc, or sbatch --wrap) by srun on its nodes.

Exit codes: 0 proved, 3 not, 2 wrong options, others as for training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from seed_dist.cli import run_command
from seed_dist.config import STAGES, StageName, load_recipe
from seed_dist.dist.ds_config import fitted_training
from seed_dist.errors import ConfigError, DataError
from seed_dist.obs.log import get_logger
from seed_dist.proof.certificate import write_certificate
from seed_dist.proof.drawn import draw_workspace
from seed_dist.proof.ranks import ranks_here
from seed_dist.proof.resumption import LEAST_STEPS, Proof, ProofError, prove
from seed_dist.proof.trial import Trial, small
from seed_dist.train.data import open_data, stage_targets


def main() -> None:
    args = _parse()
    get_logger()
    ranks = _ranks(args.ranks)
    recipe = load_recipe(args.recipe, args.set)
    if args.steps < LEAST_STEPS:
        raise ConfigError([f"--steps is {args.steps}; a kill, a stop and checkpoints need at least {LEAST_STEPS}"])
    stages: list[StageName] = args.stage or [name for name in get_args(StageName) if _has_features(args, name)]
    if args.draw:
        stages = args.stage or ["causal_qformer"]
        for stage in stages:
            draw_workspace(args.recipe, tuple(args.set), args.work, stage)
    if not stages:
        raise DataError(
            f"{args.work} has features of no stage. Make them as README's `Step by step` shows, name the workspace "
            "that has them with --work, or say --draw: that draws a few hundred scenes and encodes them."
        )
    trials = []
    for stage in stages:
        overrides = (*args.set, *(small(recipe, stage) if args.small else ()))
        trial = Trial(args.recipe, overrides, stage, args.work, args.steps, args.steps // 4)
        _check(trial, ranks)
        trials.append(trial)
    failed = 0
    for trial in trials:
        proof = prove(trial, ranks, args.seed)
        certificate = trial.folder / "resume.json"
        about = {"stage": trial.stage, "steps": trial.steps, "seed": args.seed, "overrides": trial.settings}
        write_certificate(certificate, trial.loaded(), {**about, **proof.as_dict()})
        print("\n".join(_told(trial, proof, certificate)), flush=True)
        failed += not proof.passed
    if failed:
        raise ProofError(f"{failed} of {len(trials)} stages do not resume exactly; the first difference stands above.")


def _check(trial: Trial, ranks: tuple[int, ...]) -> None:
    """What the trainings would refuse is refused before the first is started."""
    recipe = trial.loaded()
    for size in ranks:
        fitted_training(f"{trial.stage}_training", recipe.training(trial.stage), size)
    open_data(recipe, trial.stage, trial.work)


def _has_features(args: argparse.Namespace, stage: StageName) -> bool:
    targets = stage_targets(load_recipe(args.recipe, args.set), stage)
    return all((args.work / "features" / target / "train").is_dir() for target in targets)


def _ranks(text: str | None) -> tuple[int, ...]:
    if text is None:
        return (ranks_here(),)
    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError([f"--ranks is {text!r}; give numbers of ranks, for example 2 or 2,1,4"])
    return tuple(int(word) for word in words)


def _told(trial: Trial, proof: Proof, certificate: Path) -> list[str]:
    lines = [f"{'PASS' if proof.passed else 'FAIL'}  {trial.stage}, {trial.steps} steps, {proof.seconds:.0f} s"]
    lines += [f"      {name}: {'; '.join(part.described for part in parts)}" for name, parts in proof.parts.items()]
    pairs = [("bit for bit", proof.bitwise), ("at other world sizes", proof.elastic)]
    for name, compared in pairs:
        if compared is not None and compared.difference is None:
            equal = ", ".join(f"{number:,} {what}" for what, number in compared.counts.items())
            lines.append(f"      equal {name}: {equal}")
        elif compared is not None:
            lines.append(f"      first difference {name}: {compared.difference}")
    if proof.control is not None and proof.control.difference is not None:
        lines.append(
            f"      but two undisturbed runs differ too: {proof.control.difference}. The arithmetic does not repeat "
            "itself on this hardware, so nothing is said about resuming."
        )
    if not proof.passed:
        lines.append(f"      the runs and their logs are kept in {trial.folder}")
    return [*lines, f"      certificate: {certificate}"]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.prove_resume",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="glyphs", help="recipe name or .yaml file (default %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="workspace folder with the features of the stages")
    parser.add_argument("--stage", nargs="+", choices=STAGES, help="default: every stage that has features there")
    parser.add_argument("--ranks", metavar="A,B,...",
        help="ranks, and further world sizes to resume on (default: 2, or the allocation's tasks)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=12, help="steps of each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="where it is killed and stopped (default %(default)s)")
    parser.add_argument("--small", action="store_true", help="a smaller model and batch: the same code, sooner")
    parser.add_argument("--draw", action="store_true",
        help="first make WORK from a few drawn scenes; earlier stages are trained for 20 steps")  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
