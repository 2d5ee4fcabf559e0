"""What the shard writer and the feature loader hold in memory for 20,000 and for 200,000 pairs: results/memory.json.

    python -m benchmarks.memory --folder runs/memory

Each runs in a process of its own. Counted is anonymous memory at its highest, looked at every few milliseconds: pages
of files do not belong to a process, the kernel takes them back. The writer is data_prep/shard.py's work from tars of
tiny pictures; the loader reads two epochs of the third stage's codes, shuffled, in batches of 256.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.hardware import keep
from benchmarks.loader_sources import our_batches
from seed_dist.data.reader import PairedFeatures
from seed_dist.data.request import ShardOptions
from seed_dist.data.sharding import shard_source
from seed_dist.data.writer import open_shard
from tests.features import write_features
from tests.pictures import picture

PAIRS = (20_000, 200_000)
PER_SHARD = 1000
_LOOK_S = 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/memory"), help="where the data are written, 2 GB")
    parser.add_argument("--part", choices=list(PARTS), help="for the processes that it starts")
    arguments = parser.parse_args()
    if arguments.part:
        print(PARTS[arguments.part](arguments.folder))
        return
    folders = {pairs: arguments.folder / str(pairs) for pairs in PAIRS}
    for pairs, folder in folders.items():
        prepare(folder, pairs)
    found = {}
    for part in PARTS:
        peaks = {str(pairs): measured(part, folder) for pairs, folder in folders.items()}
        few, many = peaks.values()
        growth = (many - few) / (PAIRS[1] - PAIRS[0])
        found[part] = {"peak_anonymous_bytes": peaks, "bytes_per_further_pair": round(growth, 1)}
    shutil.rmtree(arguments.folder)
    keep("memory", found, ["numpy", "pyarrow"])


def prepare(folder: Path, pairs: int) -> None:
    """WORK/source: pictures with captions in tars; and features of as many samples."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "source").mkdir(parents=True)
    pictures = [picture(number) for number in range(64)]
    for first in range(0, pairs, PER_SHARD):
        with open_shard(folder / "source" / f"{first:09d}.tar") as tar:
            for number in range(first, first + PER_SHARD):
                tar.add(f"{number:09d}.png", pictures[number % len(pictures)])
                tar.add(f"{number:09d}.txt", f"caption number {number}".encode())
    codes = np.random.default_rng(0).integers(0, 8192, (pairs, 32)).astype(np.int32)
    write_features(folder, "train", "codes", codes, ["c"] * pairs, per_shard=PER_SHARD)


def measured(part: str, folder: Path) -> int:
    allocators = ["MALLOC_ARENA_MAX=1", "ARROW_DEFAULT_MEMORY_POOL=system"]  # what threads keep unused is noise
    command = ["env", *allocators, sys.executable, "-m", "benchmarks.memory", "--part", part, "--folder", str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def writer(folder: Path) -> int:
    with highest() as peak:
        shard_source(folder / "source", folder / "out", ShardOptions(workers=1))
    return peak[0]


def loader(folder: Path) -> int:
    with highest() as peak:
        features = PairedFeatures(folder, "train", ["codes"])
        for _ in range(2):
            for _ in our_batches(features, 256, is_shuffled=True):
                pass
    return peak[0]


PARTS: dict[str, Callable[[Path], int]] = {"writer": writer, "loader": loader}


@contextmanager
def highest() -> Iterator[list[int]]:
    """The most anonymous memory of this process meanwhile, bytes."""
    seen, done = [anonymous_bytes()], threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_S):
            seen[0] = max(seen[0], anonymous_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    main()
