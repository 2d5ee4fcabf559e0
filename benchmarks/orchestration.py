"""How much of the time is work when everything but the work is real: 1 to 8 ranks whose work is a sleep.

    python -m benchmarks.orchestration --rounds 3

Every rank sleeps for a known time in every step, as a GPU would compute, in the real loop with the tiny codebook
stage: reading ahead, ZeRO-2 over gloo, the agreement on stopping, the journal, FusedAdam. Its loss is the sum of its
parameters, so that each gets a gradient, but nothing is computed that a GPU would. Efficiency is the sleep's share of a
step, from the end of one update to the end of the next. All ranks share this machine's cores, which ranks on nodes of
their own would not: so the processor time of a rank and step is told too, which is what such a rank would add to its
step at most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import QUIET, our_loop
from benchmarks.hardware import keep, load
from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.train.stages.codebook import CodebookStage
from tests.features import tiny_workspace
from tests.harness import run_ranks

SIZES = (1, 2, 4, 8)
GLOBAL_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="of each round (default %(default)s)")
    parser.add_argument("--sleep", type=float, default=0.5, metavar="SECONDS",
        help="work of a step; published steps on 64 V100 take about this long (default %(default)s)")  # fmt: skip
    args = parser.parse_args()
    before = load()
    periods: dict[int, list[float]] = {size: [] for size in SIZES}
    processor: dict[int, list[float]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        overrides = tiny_workspace(Path(folder, "data"))
        for number in range(args.rounds):
            for size in SIZES if number % 2 == 0 else reversed(SIZES):
                arguments = (Path(folder, "data"), overrides, args.sleep, args.steps)
                found = run_ranks(world, size, Path(folder), *arguments, timeout_s=600.0)
                for clock, values in enumerate((periods, processor)):
                    values[size].append(statistics.median(step[clock] for rank in found for step in rank))
    result: dict[str, Any] = {
        "sleep_seconds": args.sleep,
        "steps": args.steps,
        "load_average": [before, load()],
        "step_seconds": periods,
        "processor_milliseconds_per_rank_and_step": {
            size: round(statistics.median(values) * 1e3, 2) for size, values in processor.items()
        },
        "efficiency": {size: round(args.sleep / statistics.median(values), 4) for size, values in periods.items()},
    }
    keep("orchestration", result, ["torch", "deepspeed"])


def world(comm: Comm, work: Path, overrides: tuple[str, ...], sleep_s: float, steps: int) -> list[list[float]]:
    """Seconds of every step of this rank, by the clock and of its processor."""
    training = (f"global_batch={GLOBAL_BATCH}", "steps=100000", "log_every=50", *QUIET)
    recipe = load_recipe("glyphs", (*overrides, *(f"codebook_training.{item}" for item in training)))

    def sleeping(stage: CodebookStage, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(sleep_s)
        return torch.stack([parameter.sum() for parameter in stage.parameters()]).sum() * 1e-9, {}

    CodebookStage.forward = sleeping  # type: ignore[method-assign,assignment]
    CodebookStage.after_step = lambda *_: None  # type: ignore[method-assign]  # no code was used
    with tempfile.TemporaryDirectory() as scratch:
        return our_loop(recipe, work, comm, Path(comm.broadcast_object(scratch)))(steps + 1).tolist()


if __name__ == "__main__":
    main()
