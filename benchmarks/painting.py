"""Pictures for measuring: painted in blocks of one shape against one by one, by the clock and by processor time.

  python -m benchmarks.painting

The embedded small painter, 20 steps, on as many threads as --threads says. Before timing, both ways are compared: in
blocks a picture has the same bits whatever it shares the block with, one by one it may differ by a level or so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster
from seed_dist.models.painter import load_painter
from seed_dist.suites.painting import BLOCK, Painting, in_blocks

PICTURES = 2 * BLOCK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    painting = Painting(load_painter("embedded:painter"))
    shape = painting.painter.embedding_shape
    embeddings = torch.randn(PICTURES, *shape, generator=torch.Generator().manual_seed(0))
    keys = [f"picture-{number}" for number in range(PICTURES)]

    def paint(rows: list[int]) -> list[Image.Image]:
        return painting(embeddings[rows], [keys[row] for row in rows])

    def in_order(rows: list[int]) -> list[Image.Image]:
        return list(in_blocks(rows, paint))

    rows = list(range(PICTURES))
    blocks, alone = in_order(rows), [paint([row])[0] for row in rows]
    shuffled = dict(zip(rows[::-1], in_order(rows[::-1]), strict=True))
    processor_s: dict[str, list[float]] = {"blocks": [], "one by one": []}

    def timed(name: str, work: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            began_s = time.process_time()
            work()
            processor_s[name].append(time.process_time() - began_s)

        return run

    load_before = load()
    arms = {
        "blocks": timed("blocks", lambda: in_order(rows)),
        "one by one": timed("one by one", lambda: [paint([row]) for row in rows]),
    }
    seconds = interleaved(arms, args.rounds)
    processor_s = {name: values[1:] for name, values in processor_s.items()}  # without the round that is not counted
    keep(
        "painting",
        {
            "work": f"{PICTURES} pictures of 64 x 64 by the embedded painter, 20 steps, blocks of {BLOCK}",
            "threads": args.threads,
            "load_average_before": load_before,
            "rounds": args.rounds,
            "median_seconds": medians(seconds),
            "median_processor_seconds": medians(processor_s),
            "blocks_against_one_by_one": times_faster(seconds, "blocks", "one by one"),
            "blocks_against_one_by_one_by_processor_time": times_faster(processor_s, "blocks", "one by one"),
            "pictures_that_other_company_changes": sum(blocks[row] != shuffled[row] for row in rows),
            "levels_between_block_and_alone": max(_levels(blocks[row], alone[row]) for row in rows),
        },
        ["torch", "diffusers"],
    )


def _levels(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


if __name__ == "__main__":
    main()
