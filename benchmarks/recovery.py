"""From kill -9 of one rank to the first step that is new, and an ordinary start beside it, each split into its parts.

    python -m benchmarks.recovery --rounds 5

The tiny codebook stage on two ranks under torchrun, as `seed_dist.drill` starts it; under SLURM its own wait before a
requeued job starts comes on top (`cred_expire`, two minutes unless set). Every round starts a run and kills a rank at a
drawn moment. Seconds by the clock, medians over rounds:

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
from pathlib import Path
from typing import Any

import psutil

from benchmarks.hardware import keep, load
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.proof.jobs import TRAINING, LocalJob
from seed_dist.watch.attempts import attempt_folders, start_of
from seed_dist.watch.notes import read_deaths
from tests.features import tiny_workspace

STAGE, RANKS = "codebook", 2
_OPTIONS = ("steps=1000000", "validate_every=1000000", "checkpoint_every=50", "log_every=1", "global_batch=16")
_PATIENCE_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    before, generator = load(), random.Random(0)
    starts, recoveries = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        overrides = (*tiny_workspace(work, 256), *(f"{STAGE}_training.{option}" for option in _OPTIONS))
        words = [word for item in overrides for word in ("--set", item)]
        arguments = ["--recipe", "glyphs", "--work", str(work), "--stage", STAGE, *words, "--mlflow", "off"]
        for _ in range(args.rounds):
            start, recovery = one_round(arguments, work, generator.uniform(1.0, 4.0))
            print(f"start {start}\nrecovery {recovery}", flush=True)
            starts.append(start)
            recoveries.append(recovery)
    result = {"start_seconds": medians(starts), "recovery_seconds": medians(recoveries), "rounds": args.rounds}
    keep("recovery", {**result, "load_average": [before, load()]}, ["torch", "deepspeed"])


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each part, and of the whole."""
    values = {part: [one[part] for one in rounds] for part in rounds[0]}
    values["whole"] = [sum(one.values()) for one in rounds]
    return {part: round(statistics.median(found), 2) for part, found in values.items()}


def one_round(arguments: list[str], work: Path, after_s: float) -> tuple[dict[str, float], dict[str, float]]:
    """Start, kill a rank so long after the first step, wait for the first new one."""
    run = work / STAGE
    shutil.rmtree(run)
    began_s = time.time()
    job = LocalJob(arguments, RANKS, work / "log")
    try:
        wait_for_step(run, attempt=1, step=1)
        begun = parts_of_start(run, 1, began_s, step=1)
        time.sleep(after_s)
        ranks, killed_s = list(rank_processes().values()), time.time()
        job.kill_rank(1)
        psutil.wait_procs(ranks, timeout=_PATIENCE_S)
        done = records(run, "step")[-1]["step"]
        (note,) = read_deaths(attempt_folders(run)[0])
        wait_for_step(run, attempt=2, step=done + 1)
        return begun, {"detect": note.time_s - killed_s, **parts_of_start(run, 2, note.time_s, done + 1)}
    finally:
        job.cancel()


def parts_of_start(run: Path, attempt: int, since_s: float, step: int) -> dict[str, float]:
    """Of the attempt with this number, which is running, from `since_s` on until it had done `step` steps."""
    marks = {
        "relaunch": begin_of(rank_processes()[0]),
        "imports": start_of(attempt_folders(run)[attempt - 1])["time_s"],
        "load": records(run, "start")[attempt - 1]["time_s"],
        "warm-up": next(record["time_s"] for record in records(run, "step") if record["step"] == step),
    }
    return {
        part: mark - before for (part, mark), before in zip(marks.items(), [since_s, *marks.values()], strict=False)
    }


def begin_of(process: psutil.Process) -> float:
    """By today's clock: what psutil says is off by up to a second, because the kernel tells the boot's time in whole
    ones."""
    after_boot_s = process.create_time() - psutil.boot_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot_s)


def wait_for_step(run: Path, attempt: int, step: int) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while len(records(run, "start")) < attempt or all(record["step"] < step for record in records(run, "step")):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no step {step} in attempt {attempt}: {(run.parent / 'log').read_text()[-3000:]}")
        time.sleep(0.25)


def records(run: Path, event: str) -> list[dict[str, Any]]:
    journal = run / JOURNAL
    return [record for record in read_journal(journal) if record["event"] == event] if journal.exists() else []


def rank_processes() -> dict[int, psutil.Process]:
    """The ranks that this process started, by way of torchrun."""
    below = psutil.Process().children(recursive=True)
    return {int(p.environ()["RANK"]): p for p in below if TRAINING in p.cmdline()[:4]}


if __name__ == "__main__":
    main()
