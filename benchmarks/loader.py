"""The feature loader beside webdataset, MosaicML streaming, torchdata and a bare read: results/loader.json.

    python -m benchmarks.loader --work runs/bench

mosaicml-streaming asks for an older numpy than the pipeline (docs/benchmarks.md says how to install it beside).

Rates: all deliver the same numbers as batches of 16-bit arrays, one element of every page is touched, everything is in
the page cache, as a read of the files from disk has left it, rounds are interleaved, and medians are told: by the
clock, and by the processor time of all threads, which other work on the machine disturbs less. A bare read takes the
shards in 8 MB pieces into one buffer.

Starts: a run was killed at 10, 50 or 90 % of an epoch, and a new process goes on: seconds to the first right batch.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.hardware import keep, load
from benchmarks.loader_sources import (
    IMPORTS,
    Arrays,
    our_batches,
    raw_pieces,
    save_states,
    streaming_batches,
    webdataset_batches,
    write_others,
)
from seed_dist.data.reader import PairedFeatures
from tests.features import write_features

WARM_BATCHES = 6  # before the clock starts: memory is new for so long
SETS: dict[str, tuple[int, int, dict[str, tuple[int, ...]]]] = {  # samples, batch, shapes of the targets
    "stage 2": (16_384, 256, {"causal": (32, 768), "target": (1024,)}),
    "stage 1": (2_048, 64, {"patches": (257, 1408)}),
}
STARTS = 3  # of each source at each place
START = """
import sys, time
from pathlib import Path
began = time.perf_counter()
{imports}
from benchmarks.loader_sources import resumed
print("measured", time.perf_counter() - began)
began = time.perf_counter()
source, work, targets, batch, step = sys.argv[1:]
batch = next(iter(resumed(source, Path(work), targets.split(","), int(batch), int(step))))
print(time.perf_counter() - began)
import numpy
print(sum(int(numpy.ascontiguousarray(value).view(numpy.uint8).sum()) for value in batch), flush=True)
import os
os._exit(0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="where the data are written, about 7 GB")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name, (samples, batch, shapes) in SETS.items():
        work = arguments.work / name.replace(" ", "")
        prepare(work, samples, shapes)
        results[name] = compare(work, samples, batch, shapes, arguments.rounds)
    work, (samples, batch, shapes) = arguments.work / "stage2", SETS["stage 2"]
    results["first batch of stage 2 after a start"] = starts(work, samples, batch, list(shapes))
    keep("loader", results, ["numpy", "torch", "webdataset", "mosaicml-streaming", "torchdata"])


def compare(work: Path, samples: int, batch: int, shapes: dict[str, tuple[int, ...]], rounds: int) -> dict[str, Any]:
    """Rates of everything, and how ours compare."""
    targets, sample_bytes = list(shapes), 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    features = PairedFeatures(work, "train", targets)  # open from round to round, as from epoch to epoch
    sources: dict[str, Callable[[], Iterator[Any]]] = {
        "raw": lambda: raw_pieces(work, targets),
        "ours, order of the file": lambda: our_batches(features, batch, False),
        "ours, shuffled": lambda: our_batches(features, batch, True),
        "ours, shuffled, first touch": lambda: our_batches(PairedFeatures(work, "train", targets), batch, True),
        "webdataset": lambda: webdataset_batches(work, targets, batch),
        "streaming": lambda: streaming_batches(work, targets, batch),
    }
    rates: dict[str, list[tuple[float, float]]] = {source: [] for source in sources}
    for number in range(rounds + 1):  # the first fills the page cache and is our first epoch; it does not count
        for source, batches in sources.items():
            limit = samples // batch if source.startswith(("ours", "raw")) else min(samples // batch, WARM_BATCHES + 12)
            measured = rate(batches(), batch * sample_bytes, limit, is_raw=source == "raw")
            if number:
                rates[source].append(measured)
    found: dict[str, Any] = {"load_average": load()}
    for field, what in enumerate(("bytes_per_s", "bytes_per_processor_s")):
        values = {source: [measured[field] for measured in rates[source]] for source in sources}
        medians = {source: statistics.median(values[source]) for source in sources}
        found[what] = {source: {"median": medians[source], "rounds": values[source]} for source in sources}
        for ours in ("ours, shuffled", "ours, order of the file"):
            found[what][f"{ours}, against"] = {source: medians[ours] / medians[source] for source in sources}
    return found


def rate(batches: Iterable[Any], batch_bytes: int, limit: int, is_raw: bool) -> tuple[float, float]:
    """Bytes per second, and per second of processor time."""
    began, delivered = (time.perf_counter(), time.process_time()), 0
    for number, arrays in enumerate(itertools.islice(batches, None if is_raw else limit)):
        for array in arrays:
            touch(array)
        delivered += sum(array.nbytes for array in arrays) if is_raw else batch_bytes
        if number + 1 == WARM_BATCHES:
            began, delivered = (time.perf_counter(), time.process_time()), 0
    return delivered / (time.perf_counter() - began[0]), delivered / (time.process_time() - began[1])


def touch(array: npt.NDArray[Any]) -> int:
    return int(array.reshape(-1).view(np.uint8)[::4096].sum())


def starts(work: Path, samples: int, batch: int, targets: list[str]) -> dict[str, Any]:
    """Of every source at every place: seconds to import, and from there to a batch that was found right."""
    features = PairedFeatures(work, "train", targets)
    found: dict[str, Any] = {source: {} for source in IMPORTS}
    for share in (0.1, 0.5, 0.9):
        step = int(samples // batch * share)
        save_states(work, batch, step)
        in_file_order = checksum(features.read(np.arange(step * batch, (step + 1) * batch)).values())
        shuffled = checksum(next(itertools.islice(our_batches(features, batch, True), step, None)))
        for source, imports in IMPORTS.items():
            expected = shuffled if source.startswith("ours") else in_file_order
            arguments = [source, str(work), ",".join(targets), str(batch), str(step)]
            command = [sys.executable, "-c", START.format(imports=imports), *arguments]
            runs = [started(command, expected) for _ in range(STARTS)]
            imports_s, batch_s = (statistics.median(times) for times in zip(*runs, strict=True))
            found[source][f"{share:.0%}"] = {"import_s": imports_s, "batch_s": batch_s}
    return found


def started(command: list[str], expected: int) -> tuple[float, float]:
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    imports_s, batch_s, found = printed.rpartition("measured")[2].split()
    assert int(found) == expected, f"another batch came after the start of {command[3]}"
    return float(imports_s), float(batch_s)


def checksum(arrays: Iterable[npt.NDArray[Any]]) -> int:
    return sum(int(array.view(np.uint8).sum()) for array in arrays)


def prepare(work: Path, samples: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """The same samples in all formats, on disk and in no cache."""
    if (work / "done").exists():
        return
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 22).astype(np.float16)

    def sample(number: int) -> Arrays:
        sizes = {target: int(np.prod(shape)) for target, shape in shapes.items()}
        begin = number * 977 % (len(noise) - max(sizes.values()))
        return {target: noise[begin : begin + sizes[target]].reshape(shape) for target, shape in shapes.items()}

    for target in shapes:
        values = np.stack([sample(number)[target] for number in range(samples)])
        write_features(work, "train", target, values, ["c"] * samples, per_shard=samples // 8)
        del values
    write_others(work, samples, sample)
    for path in work.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (work / "done").touch()


if __name__ == "__main__":
    main()
