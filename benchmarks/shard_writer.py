"""Writing 20,000 images with captions as shards: ours, webdataset's ShardWriter, MosaicML's MDSWriter.

  python -m benchmarks.shard_writer

MDSWriter takes part where mosaicml-streaming is installed; docs/benchmarks.md says how.

Ours is what data_prep/shard.py does behind the pictures' checks: tar members with CRC-32, SHA-256 per shard, flush to
disk, rename, record, index and manifest. The others write their files and neither checksum nor flush them. Bytes come
from memory. Before timing, the samples that each has written are read back by its own reader and compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster
from seed_dist.data.assembly import Assembly, Plan, ShardRecord, shard_name
from seed_dist.data.image_shard import Sample, add_sample
from seed_dist.data.reader import ImageShards
from seed_dist.data.writer import open_shard

PAIRS, SHARD_PAIRS = 20_000, 1000
Pairs = list[tuple[bytes, str]]


def pairs(count: int, mean_bytes: int) -> Pairs:
    """Random bytes of the size of small JPEGs, and captions of some words. No writer looks inside."""
    generator = random.Random(0)
    sizes = (generator.randint(mean_bytes // 2, 3 * mean_bytes // 2) for _ in range(count))
    return [
        (generator.randbytes(size), f"a caption of a picture, number {number}") for number, size in enumerate(sizes)
    ]


def ours(folder: Path, given: Pairs) -> None:
    assembly = Assembly(folder, Plan("images", {"source": ""}, {}))
    assembly.begin()
    names: list[str] = []
    for first in range(0, len(given), SHARD_PAIRS):
        name = shard_name(len(names))
        with open_shard(folder / name) as shard:
            part = enumerate(given[first : first + SHARD_PAIRS], first)
            rows = tuple(add_sample(shard, f"{i:09d}", Sample("jpg", image, (text,))) for i, (image, text) in part)
        assembly.announce(ShardRecord(shard.entry(len(rows)), rows))
        names.append(name)
    assembly.commit(names, {})


def shard_writer(folder: Path, given: Pairs, **options: float) -> None:
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=SHARD_PAIRS, verbose=0, **options) as writer:
        for number, (image, text) in enumerate(given):
            writer.write({"__key__": f"{number:09d}", "jpg": image, "txt": text})


def mds_writer(folder: Path, given: Pairs) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"jpg": "bytes", "txt": "str"}) as writer:
        for image, text in given:
            writer.write({"jpg": image, "txt": text})


def require_same(read: Pairs, given: Pairs) -> None:
    assert read == given, "a writer did not keep the samples"


def check(folder: Path, given: Pairs, has_mds: bool) -> None:
    """Every writer's own reader gives back what was written."""
    (folder / "ours").mkdir(parents=True)
    ours(folder / "ours", given)
    found = ImageShards(folder / "ours")
    require_same([(found.image_bytes(i), found.captions[i]) for i in range(len(found))], given)
    read = webdataset.WebDataset(str(folder / "ours" / "shard-{000000..000000}.tar"), shardshuffle=False)
    require_same([(sample["jpg"], sample["txt"].decode()) for sample in read], given)
    if has_mds:
        from streaming import LocalDataset

        mds_writer(folder / "mds", given)
        require_same([(sample["jpg"], sample["txt"]) for sample in LocalDataset(str(folder / "mds"))], given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mean-bytes", type=int, default=16_000, help="of an image (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write, for example on a tmpfs (default: the system's)")
    args = parser.parse_args()
    given = pairs(PAIRS, args.mean_bytes)
    writers: dict[str, Callable[[Path], None]] = {
        "ours": lambda folder: ours(folder, given),
        "shard_writer": lambda folder: shard_writer(folder, given),
        "shard_writer_whole_mtime": lambda folder: shard_writer(folder, given, mtime=0.0),
    }
    has_mds = importlib.util.find_spec("streaming") is not None
    if has_mds:
        writers["mds_writer"] = lambda folder: mds_writer(folder, given)
    load_before = load()
    processor_seconds: dict[str, list[float]] = {name: [] for name in writers}
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        check(Path(scratch, "check"), given[:100], has_mds)

        def arm(name: str) -> Callable[[], None]:
            def write() -> None:
                folder = Path(tempfile.mkdtemp(dir=scratch))
                started = time.process_time()
                writers[name](folder)
                processor_seconds[name].append(time.process_time() - started)

            return write

        def clear() -> None:
            for folder in Path(scratch).iterdir():
                shutil.rmtree(folder)

        seconds = interleaved({name: arm(name) for name in writers}, args.rounds, between=clear)
    processor_seconds = {name: values[1:] for name, values in processor_seconds.items()}  # the first is not counted
    keep(
        "shard_writer",
        {
            "work": f"{PAIRS} pairs, {sum(len(image) for image, _ in given)} bytes of images, one process",
            "load_average_before": load_before,
            "rounds": args.rounds,
            "median_seconds": medians(seconds),
            "median_processor_seconds": medians(processor_seconds),
            **{f"ours_against_{name}": times_faster(seconds, "ours", name) for name in writers if name != "ours"},
            **{
                f"ours_against_{name}_processor_time": times_faster(processor_seconds, "ours", name)
                for name in writers
                if name != "ours"
            },
        },
        ["webdataset", *(["mosaicml-streaming"] if has_mds else [])],
    )


if __name__ == "__main__":
    main()
