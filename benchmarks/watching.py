"""What being watched costs a step, in microseconds: `python -m benchmarks.watching` writes results/watching.json.

Beats as in a step of one micro-batch, the note of its samples (in the reader's thread), the ranks' vote with its step,
and the exchange of own times when a step is logged; two ranks over gloo for the last two, and the vote as it was
without a step beside it. Interleaved, medians.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.hardware import keep, load
from seed_dist.dist.checkpoint_saver import Flags
from seed_dist.dist.launch import open_comm
from seed_dist.topology import World
from seed_dist.train.boundary import meet
from seed_dist.watch.heartbeat import Heartbeat

_CALLS, _ROUNDS = 100, 50


def microseconds(arms: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median over rounds of each arm's mean."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(_ROUNDS):
        for name, arm in arms.items():
            began_s = time.perf_counter()
            for _ in range(_CALLS):
                arm()
            seconds[name].append((time.perf_counter() - began_s) / _CALLS)
    return {name: round(statistics.median(values) * 1e6, 2) for name, values in seconds.items()}


def rank_main(rank: int, folder: str, answers: Queue[dict[str, float]]) -> None:
    heartbeat = Heartbeat(Path(folder) / f"beat{rank}")
    rows = np.arange(64).tolist()

    def beats_of_a_step() -> None:
        for phase in ("data", "forward", "backward", "step"):
            heartbeat.beat(phase, 7)

    def plain_vote() -> None:
        votes = torch.tensor([0], dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        votes.item()

    with open_comm(World(rank, 2, rank, 2), 60.0, f"file://{folder}/store") as comm:
        alone = microseconds({"beats": beats_of_a_step, "samples": lambda: heartbeat.samples(7, rows)})
        together = microseconds(
            {
                "plain_vote": plain_vote,
                "boundary": lambda: meet(comm, 7, 0.0, False, Flags(False, False)),
                "own_times": lambda: comm.gather(torch.tensor([0.1], dtype=torch.float64)).tolist(),
            }
        )
    answers.put(alone | together)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ranks = [context.Process(target=rank_main, args=(rank, folder, answers)) for rank in range(2)]
        for process in ranks:
            process.start()
        values = answers.get()
        for process in ranks:
            process.join()
    keep("watching", {"load": load(), "microseconds": values})


if __name__ == "__main__":
    main()
