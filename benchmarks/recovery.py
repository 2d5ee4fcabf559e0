"""From a death to the first step that is new, and an ordinary start beside it, each split into its parts.

    python -m benchmarks.recovery --rounds 5
    python -m benchmarks.recovery --rounds 3 --on slurm     (as root, see `recovery_slurm`)

The tiny codebook stage on two ranks. Every round starts a run and disturbs it at a drawn moment: under torchrun, as
`seed_dist.drill` starts it, a rank gets kill -9; under SLURM a node loses its power. Seconds by the clock, medians over
rounds. Under torchrun:

    detect      kill -9 until the node's watchdog has noted the death
    relaunch    until the new rank 0 is a process: the others end by an error of their own, torchrun starts all again
    imports     until all ranks have met: Python, torch, DeepSpeed, the process group
    load        until the loop begins: model, data, checkpoint, engine
    warm-up     until a step is in the journal that no attempt had done before
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.hardware import keep, load
from benchmarks.recovery_parts import Round, parts_of_start, records, wait_for_step
from benchmarks.recovery_slurm import slurm_rounds
from seed_dist.proof.jobs import TRAINING, LocalJob
from seed_dist.watch.attempts import attempt_folders
from seed_dist.watch.notes import read_deaths
from tests.features import tiny_workspace

STAGE, RANKS = "codebook", 2
_OPTIONS = ("steps=1000000", "validate_every=1000000", "checkpoint_every=50", "log_every=1", "global_batch=16")
_PATIENCE_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices=("local", "slurm"), default="local", help="what starts the ranks again")
    args = parser.parse_args()
    before, generator = load(), random.Random(0)
    starts, recoveries = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        overrides = (*tiny_workspace(work, 256), *(f"{STAGE}_training.{option}" for option in _OPTIONS))
        words = [word for item in overrides for word in ("--set", item)]
        arguments = ["--stage", STAGE, *words, "--mlflow", "off"]
        rounds = slurm_rounds if args.on == "slurm" else local_rounds
        with rounds(arguments, work / STAGE) as (one_round, settings):
            for _ in range(args.rounds):
                start, recovery = one_round(generator.uniform(1.0, 4.0))
                print(f"start {start}\nrecovery {recovery}", flush=True)
                starts.append(start)
                recoveries.append(recovery)
    result = {"start_seconds": medians(starts), "recovery_seconds": medians(recoveries), "rounds": args.rounds}
    kept_as = "recovery" if args.on == "local" else f"recovery_{args.on}"
    keep(kept_as, {**result, **settings, "load_average": [before, load()]}, ["torch", "deepspeed"])


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each part, and of the whole."""
    values = {part: [one[part] for one in rounds] for part in rounds[0]}
    values["whole"] = [sum(one.values()) for one in rounds]
    return {part: round(statistics.median(found), 2) for part, found in values.items()}


@contextmanager
def local_rounds(arguments: Sequence[str], run: Path) -> Iterator[tuple[Round, dict[str, float]]]:
    """A function that does one round under torchrun."""
    words = ["--recipe", "glyphs", "--work", str(run.parent), *arguments]
    yield lambda after_s: local_round(words, run, after_s), {}


def local_round(arguments: Sequence[str], run: Path, after_s: float) -> tuple[dict[str, float], dict[str, float]]:
    """Start, kill a rank so long after the first step, wait for the first new one."""
    log = run.parent / "log"
    shutil.rmtree(run)
    began_s = time.time()
    job = LocalJob(arguments, RANKS, log)
    try:
        wait_for_step(run, attempt=1, step=1, log=log)
        begun = parts_of_start(run, 1, began_s, 1, rank_processes()[0])
        time.sleep(after_s)
        ranks, killed_s = list(rank_processes().values()), time.time()
        job.kill_rank(1)
        psutil.wait_procs(ranks, timeout=_PATIENCE_S)
        done = records(run, "step")[-1]["step"]
        (note,) = read_deaths(attempt_folders(run)[0])
        wait_for_step(run, attempt=2, step=done + 1, log=log)
        parts = parts_of_start(run, 2, note.time_s, done + 1, rank_processes()[0])
        return begun, {"detect": note.time_s - killed_s, **parts}
    finally:
        job.cancel()


def rank_processes() -> dict[int, psutil.Process]:
    """The ranks that this process started, by way of torchrun."""
    below = psutil.Process().children(recursive=True)
    return {int(p.environ()["RANK"]): p for p in below if TRAINING in p.cmdline()[:4]}


if __name__ == "__main__":
    main()
