"""The feature loader beside webdataset, MosaicML streaming and a bare read: results/loader.json.

    python -m benchmarks.loader --work runs/bench --rounds 5

mosaicml-streaming asks for an older numpy than the pipeline (docs/benchmarks.md says how to install it beside).

All deliver the same numbers as batches of 16-bit arrays, one element of every page is touched, everything is in the
page cache, rounds are interleaved, and medians are told: by the clock, and by the processor time of all threads, which
other work on the machine disturbs less. webdataset and streaming run as their documentation shows
without workers. A bare read takes the shards in 8 MB pieces into one buffer.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
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
from seed_dist.data.prefetch import Work, prefetched
from seed_dist.data.reader import PairedFeatures
from seed_dist.order import SampleOrder, block_samples
from tests.features import write_features

Arrays = dict[str, npt.NDArray[Any]]
WARM_BATCHES = 6  # before the clock starts: memory is new for so long
SETS: dict[str, tuple[int, int, dict[str, tuple[int, ...]]]] = {  # samples, batch, shapes of the targets
    "stage 2": (16_384, 256, {"causal": (32, 768), "target": (1024,)}),
    "stage 1": (2_048, 64, {"patches": (257, 1408)}),
}
FIRST = """
import sys, time
began = time.perf_counter()
from pathlib import Path
import numpy as np
from benchmarks.loader import our_batches
print(time.perf_counter() - began)
began = time.perf_counter()
batch = next(our_batches(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), True, int(sys.argv[4])))
print(time.perf_counter() - began, sum(int(value.view(np.uint8).sum()) for value in batch))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="where the data are written, about 7 GB")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name, (samples, batch, shapes) in SETS.items():
        work = arguments.work / name.replace(" ", "")
        prepare(work, samples, shapes)
        results[name] = compare(work, samples, batch, shapes, arguments.rounds) | {
            "first_batch_after_a_start": first_batches(work, samples, batch, list(shapes))
        }
    keep("loader", results, ["numpy", "webdataset", "mosaicml-streaming"])


def compare(work: Path, samples: int, batch: int, shapes: dict[str, tuple[int, ...]], rounds: int) -> dict[str, Any]:
    """Rates of everything, and how ours compare."""
    targets, sample_bytes = list(shapes), 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    sources: dict[str, Callable[[], Iterator[Any]]] = {
        "raw": lambda: raw_pieces(work, targets),
        "ours, order of the file": lambda: our_batches(work, targets, batch, False),
        "ours, shuffled": lambda: our_batches(work, targets, batch, True),
        "ours, shuffled, first touch": lambda: our_batches(work, targets, batch, True, checked=False),
        "webdataset": lambda: webdataset_batches(work, targets, batch),
        "streaming": lambda: streaming_batches(work, targets, batch),
    }
    rates: dict[str, list[tuple[float, float]]] = {source: [] for source in sources}
    for number in range(rounds + 1):  # the first fills the page cache and does not count
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


def our_batches(features: PairedFeatures, batch: int, shuffled: bool, first: int = 0) -> Iterator[Any]:
    """As the training loop reads them."""
    order = SampleOrder(len(features), 1, block_samples(features.sample_bytes))

    def make(step: int, slot: Arrays) -> Arrays:
        ids = order.batch(step, batch) if shuffled else np.arange(step * batch, (step + 1) * batch)
        return features.read(np.sort(ids), slot)

    def slots() -> list[Arrays]:
        return [
            {target: pages((batch, *shards.shape), shards.dtype) for target, shards in features.sets.items()}
            for _ in range(2)
        ]

    work_of = Work(make, slots, features.read_of, timeout_s=60.0)
    return (list(arrays.values()) for arrays in prefetched(work_of, first, len(features) // batch + first))


def pages(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """New memory that begins with a page, as pinned memory does: copies to odd addresses take twice as long."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size_bytes), dtype).reshape(shape)


def raw_pieces(work: Path, targets: list[str]) -> Iterator[Any]:
    buffer = pages((8 << 20,), np.uint8)
    for target in targets:
        for path in sorted((work / "features" / target / "train").glob("*.tar")):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    yield [buffer[:count]]


def webdataset_batches(work: Path, targets: list[str], batch: int) -> Iterator[Any]:
    import webdataset

    names = [f"{target}.npy" for target in targets]
    paths = sorted(map(str, (work / "webdataset").glob("*.tar")))
    data = webdataset.WebDataset(paths, shardshuffle=False).decode().to_tuple(*names).batched(batch)
    return iter(data)


def streaming_batches(work: Path, targets: list[str], batch: int) -> Iterator[Any]:
    import seed_dist.models  # noqa: F401 - its guard, for torchvision beside a CPU build of torch

    import streaming  # isort: skip
    from torch.utils.data import DataLoader

    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(work / "streaming"), shuffle=False, batch_size=batch)
    for arrays in DataLoader(data, batch_size=batch):
        yield [arrays[target].numpy() for target in targets]


def first_batches(work: Path, samples: int, batch: int, targets: list[str]) -> dict[str, Any]:
    """A new process goes on at 10, 50 and 90 % of an epoch: seconds to import, and from there to a right batch."""
    found = {}
    for share in (0.1, 0.5, 0.9):
        step = int(samples // batch * share)
        command = [sys.executable, "-c", FIRST, str(work), ",".join(targets), str(batch), str(step)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(5)]
        straight = next(itertools.islice(our_batches(work, targets, batch, True), step, None))
        expected = sum(int(value.view(np.uint8).sum()) for value in straight)
        assert all(int(run[2]) == expected for run in runs), "another batch came after the start"
        imports_s, batch_s = (statistics.median(float(run[field]) for run in runs) for field in (0, 1))
        found[f"{share:.0%}"] = {"import_s": imports_s, "batch_s": batch_s}
    return found


def prepare(work: Path, samples: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """The same samples in all formats."""
    if (work / "done").exists():
        return
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 22).astype(np.float16)

    def sample(number: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        size = int(np.prod(shape))
        return noise[(start := number * 977 % (len(noise) - size)) : start + size].reshape(shape)

    for target, shape in shapes.items():
        values = np.stack([sample(number, shape) for number in range(samples)])
        write_features(work, "train", target, values, ["c"] * samples, per_shard=samples // 8)
        del values
    write_others(work, samples, lambda number: {target: sample(number, shape) for target, shape in shapes.items()})
    (work / "done").touch()


def write_others(work: Path, samples: int, sample: Callable[[int], Arrays]) -> None:
    import seed_dist.models  # noqa: F401 - as above

    import streaming  # isort: skip
    import webdataset

    (work / "webdataset").mkdir(exist_ok=True)
    columns = {target: f"ndarray:float16:{','.join(map(str, value.shape))}" for target, value in sample(0).items()}
    with (
        webdataset.ShardWriter(str(work / "webdataset/%06d.tar"), maxcount=samples // 8, verbose=0) as tars,
        streaming.MDSWriter(out=str(work / "streaming"), columns=columns, size_limit=1 << 27) as mds,
    ):
        for number in range(samples):
            arrays = sample(number)
            tars.write({"__key__": f"{number:08d}", **{f"{target}.npy": value for target, value in arrays.items()}})
            mds.write(arrays)


if __name__ == "__main__":
    main()
