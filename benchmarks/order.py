"""How well the sample order shuffles, and what it costs: `python -m benchmarks.order` writes results/order.json.

Figures beside 1 for an order that is shuffled as a whole. The data are taken at their worst: sorted by label.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.hardware import keep
from seed_dist.order import SampleOrder, block_samples, rank_slice

START = """
import re, time
from pathlib import Path
began = time.perf_counter()
from seed_dist.order import SampleOrder
SampleOrder(500_000_000, 1, 81).batch(90_000, 4096)
print(time.perf_counter() - began, re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def quality(order: SampleOrder, batch: int, labels: int) -> dict[str, float]:
    """One epoch of an order."""
    samples = order.samples
    ids = order.ids(np.arange(samples))
    label = ids * labels // samples
    whole = label[: samples // batch * batch].reshape(-1, batch)
    counts = np.stack([np.bincount(row, minlength=labels) for row in whole])
    again = order.ids(np.arange(samples, 2 * samples))
    kept, window = 0, order.window_samples
    for rank in range(8):
        parts = [rank_slice(np.sort(order.batch(step, batch)), rank, 8) for step in range(max(1, window // batch))]
        kept += len(np.unique(np.concatenate(parts) // order.block))
    everybody = len(np.unique(order.ids(np.arange(max(1, window // batch) * batch)) // order.block))
    return {
        "mean_displacement": float(np.abs(ids - np.arange(samples)).mean() / samples * 3),  # a third when uniform
        "next_to_its_neighbour": float((np.abs(np.diff(ids)) == 1).mean() * samples / 2),
        "same_place_in_two_epochs": float((ids == again).sum()),
        "variance_of_label_counts": float(counts.var(axis=0).mean() / (batch / labels * (1 - batch / samples))),
        "labels_in_a_batch": float((counts > 0).sum(1).mean() / labels / (1 - (1 - 1 / labels) ** batch)),
        "copies_that_eight_nodes_keep": kept / everybody,
    }


def main() -> None:
    values: dict[str, Any] = {}
    for name, sample_bytes, samples, batch in (
        ("stage 2", 51_200, 2_000_000, 1024),
        ("stage 1", 723_712, 500_000, 1024),
    ):
        block = block_samples(sample_bytes)
        order = SampleOrder(samples, 1, block)
        values[name] = {"samples": samples, "block": block, "window": order.window_samples, "batch": batch} | quality(
            order, batch, 1000
        )
    values["as a whole"] = quality(SampleOrder(500_000, 1, 500_000), 1024, 1000)
    order = SampleOrder(500_000_000, 1, 81)
    began_s = time.perf_counter()
    for step in range(200):
        order.batch(step * 601, 4096)
    per_batch_s = (time.perf_counter() - began_s) / 200
    run = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    start_s, start_kib = map(float, run.stdout.split())
    values["500 million ids"] = {
        "start_s": start_s,
        "process_bytes": start_kib * 1024,  # numpy and the interpreter among them
        "batch_of_4096_s": per_batch_s,
    }
    keep("order", values)


if __name__ == "__main__":
    main()
