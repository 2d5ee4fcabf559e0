"""Train one stage of SEED.

  python -m seed_dist.train --recipe glyphs --stage causal_qformer --work runs/demo
  torchrun --standalone --nproc-per-node=2 -m seed_dist.train --recipe glyphs --stage codebook --work runs/demo
  srun python -m seed_dist.train ...                              (several nodes: set MASTER_ADDR and MASTER_PORT)

Stages, in order:
  causal_qformer  image patches and captions -> causal embeddings        reads features/patches
  codebook        causal embeddings -> codes and back                    reads features/causal and the generation target
  lora            a language model that reads and writes the codes       reads features/codes

The run directory is WORK/STAGE. The same command run again goes on from the newest checkpoint, or says that the stage
is finished. Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2 and the end of a SLURM job's time make all ranks save after the current
step and leave with exit code 75: run the command again to go on. Everything that is measured goes to
WORK/STAGE/journal.jsonl, and from there to MLflow (mlflow.db beside it, or a server; `python -m seed_dist.sync` does
that by hand) and to live.html, a page that is written anew every minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from seed_dist.cli import EXIT_STOPPED, end_process
from seed_dist.config import STAGES, Recipe, load_recipe
from seed_dist.dist.deadline import job_deadline
from seed_dist.dist.ds_config import fitted_training
from seed_dist.dist.preempt import StopRequest, stop_requests
from seed_dist.errors import ConfigError, SeedDistError
from seed_dist.obs.destination import tracking_uri
from seed_dist.obs.log import get_logger, quieten_libraries, quieten_other_ranks
from seed_dist.obs.mlflow_process import Tracking, usual_when
from seed_dist.obs.provenance import check_run, stage_identity
from seed_dist.topology import World, world_from_environment
from seed_dist.train.data import StageData, open_data
from seed_dist.train.stages import EXPORT

_PATIENCE_S = 2.0


def main() -> None:
    args = _parse()
    world = world_from_environment()
    quieten_other_ranks(world.rank)
    try:
        recipe, data, identity = _check(args, world)
    except SeedDistError as error:
        if world.is_main:
            raise
        _leave_after_rank_0(error.exit_code)  # all ranks look at the same files and come to the same end
    folder = args.work / args.stage
    if not args.fresh and check_run(folder, identity) and (folder / EXPORT).is_dir():
        get_logger().info("%s is already finished: %s", args.stage, folder / EXPORT)
        return
    # From here on, so that a signal in the minutes before the first step counts too. One rank watches the clock: the
    # others learn of it as they learn of a signal.
    with stop_requests(job_deadline() if world.is_main else None) as stop:
        outcome = _train(args, world, recipe, data, identity, stop)
    if outcome == "stopped":
        get_logger().info("stopped as asked; run the same command again to go on")
        sys.exit(EXIT_STOPPED)


def _check(args: argparse.Namespace, world: World) -> tuple[Recipe, StageData, dict[str, Any]]:
    """Everything that can be checked in a second: nothing heavy is imported before this has passed."""
    recipe = load_recipe(args.recipe, args.set)
    fitted_training(f"{args.stage}_training", recipe.training(args.stage), world.size)
    if args.steps is not None and args.steps < 1:
        raise ConfigError([f"--steps is {args.steps}, but at least 1 step is needed"])
    if args.mlflow_uri is not None:
        tracking_uri(args.mlflow_uri, args.work / args.stage)
    data = open_data(recipe, args.stage, args.work)
    identity = stage_identity(recipe, args.stage, data.parents)
    if not args.fresh:
        check_run(args.work / args.stage, identity)
    return recipe, data, identity


def _train(
    args: argparse.Namespace,
    world: World,
    recipe: Recipe,
    data: StageData,
    identity: dict[str, Any],
    stop: StopRequest,
) -> str:
    quieten_libraries()
    from seed_dist.dist.comm import RankZeroError
    from seed_dist.dist.launch import allow_open_files, is_restart, limit_threads, open_comm
    from seed_dist.train.start import Request, run_stage

    limit_threads(world)
    allow_open_files()
    request = Request(
        recipe=recipe,
        stage=args.stage,
        work=args.work,
        identity=identity,
        last_step=args.steps if args.steps is not None else recipe.training(args.stage).steps,
        fresh=args.fresh and not is_restart(),
        resume_from=args.resume_from,
        init_from=args.init_from,
        mlflow=Tracking(args.mlflow, args.mlflow_uri),
        live_page=not args.no_live_page,
    )
    try:
        with open_comm(world, recipe.engine.collective_timeout_s) as comm:
            return run_stage(request, data, comm, stop).value
    except RankZeroError as error:
        _leave_after_rank_0(error.exit_code)
    except SeedDistError as error:
        if world.is_main:
            raise
        get_logger().warning("%s", str(error).splitlines()[0])  # perhaps this rank's alone, so it is told here too
        _leave_after_rank_0(error.exit_code)


def _leave_after_rank_0(code: int) -> NoReturn:
    """End with an error that rank 0 tells, once for all. Not before it: launchers kill the others when the first one
    ends.
    """
    time.sleep(_PATIENCE_S)
    sys.exit(code)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help="name of a recipe, or a .yaml file")
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument(
        "--work", required=True, type=Path, help="workspace folder: features are read from it, runs written"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value"
    )
    parser.add_argument(
        "--steps", type=int, help="stop (and save) after this global step; the schedule stays the recipe's"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over; the earlier run directory is kept as STAGE.old-N"
    )
    parser.add_argument(
        "--resume-from", type=Path, metavar="CHECKPOINT", help="go on from another run's checkpoint folder"
    )
    parser.add_argument(
        "--init-from", type=Path, metavar="CHECKPOINT", help="take only the weights of a checkpoint folder"
    )
    parser.add_argument(
        "--mlflow",
        choices=("end", "live", "off"),
        default=usual_when(),
        help="when a separate process copies the journal to MLflow: after training (default), during it (default in a "
        "SLURM job, of which nothing is left afterwards), never",
    )
    parser.add_argument(
        "--no-live-page", action="store_true", help="do not keep WORK/STAGE/live.html new beside the training"
    )
    parser.add_argument(
        "--mlflow-uri",
        metavar="URI",
        help="where to: http://HOST:PORT or sqlite:///PATH (default: MLFLOW_TRACKING_URI, else RUN/mlflow.db); users "
        "and passwords belong into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    return parser.parse_args()


if __name__ == "__main__":
    end_process(main)
