"""The work of data_prep/shard.py: a listed source becomes a finished folder of image shards, with worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from seed_dist.data.assembly import REJECTS_NAME, Assembly, Plan, Reject, ShardRecord
from seed_dist.data.image_shard import KEY_DIGITS, ShardTask, write_image_shard
from seed_dist.data.manifest import Manifest
from seed_dist.data.pairs import Listing
from seed_dist.data.progress import progress_bar
from seed_dist.data.sources import list_source, source_root
from seed_dist.data.table_source import Columns
from seed_dist.errors import DataError
from seed_dist.faults import fault_point
from seed_dist.fsio import fingerprint, folder_lock

_SHOWN_REJECTS = 3


@dataclass(frozen=True)
class ShardOptions:
    """How to shard. `workers`, and the share of rejects that is put up with, do not change what is written."""

    shard_samples: int = 1000
    max_reject_fraction: float = 0.01
    workers: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    captions: Path | None = None
    columns: Columns = field(default_factory=Columns)
    hash_range: tuple[float, float] = (0.0, 1.0)  # keep the pairs whose name hashes into this part of 0..1


@dataclass(frozen=True)
class ShardOutcome:
    """The finished set, and whether an earlier run had finished it already."""

    manifest: Manifest
    was_finished: bool


def shard_source(source: Path, out: Path, options: ShardOptions) -> ShardOutcome:
    """Write all usable pairs of `source` to shards in `out`, or go on where an earlier run stopped.

    Raises DataError for a source without pairs and when more pairs are unusable than `max_reject_fraction` allows,
    MismatchError when `out` was made from another source or with other options, LockedError while another job writes
    there.
    """
    if out.resolve() == source.resolve():
        raise DataError(f"source and output are the same folder, {source}. Give another output folder.")
    listing = _within(list_source(source, options.captions, options.columns), options.hash_range)
    with folder_lock(out, "data_prep/shard.py"):
        assembly = Assembly(out, _plan(listing, options))
        finished = assembly.begin()
        if finished is not None:
            return ShardOutcome(finished, True)
        assembly.discard_partials()
        records = _make_shards(assembly, _tasks(listing, source_root(source).resolve(), out, options), options)
        rejected = assembly.write_rejects(records)
        if not any(record.entry.samples for record in records):
            raise DataError(_reject_text(out, rejected, records, len(listing.pairs), "so no usable pair is left"))
        return ShardOutcome(assembly.commit(records, {"rejected": dict(sorted(rejected.items()))}), False)


def _within(listing: Listing, hash_range: tuple[float, float]) -> Listing:
    """The part of a listing that belongs to a split: decided by each pair's name alone, so more pairs move none."""
    low, high = hash_range
    if (low, high) == (0.0, 1.0):
        return listing
    kept = [pair for pair in listing.pairs if low <= zlib.crc32(pair.name.encode()) / 2**32 < high]
    if not kept:
        raise DataError(
            f"none of the {len(listing.pairs)} pairs falls into --hash-range {low} {high}. "
            "Give more pairs (some hundreds at least) or a wider range."
        )
    return replace(listing, pairs=kept, fingerprint=fingerprint([listing.fingerprint, low, high]))


def _plan(listing: Listing, options: ShardOptions) -> Plan:
    details = {
        "source": listing.kind,
        "pairs": len(listing.pairs),
        "shard_samples": options.shard_samples,
        "keys": f"position in the sorted source, {KEY_DIGITS} digits",
        "images": "bytes of the source, EXIF included; formats other than JPEG, PNG and WebP as PNG",
        "captions": "UTF-8, white space and control characters as one space",
    }
    return Plan("images", {"source": listing.fingerprint}, details)


def _tasks(listing: Listing, root: Path, out: Path, options: ShardOptions) -> list[ShardTask]:
    starts = range(0, len(listing.pairs), options.shard_samples)
    return [
        ShardTask(
            folder=out,
            name=f"shard-{number:06d}.tar",
            number=number,
            first=first,
            root=root,
            pairs=tuple(listing.pairs[first : first + options.shard_samples]),
        )
        for number, first in enumerate(starts)
    ]


def _make_shards(assembly: Assembly, tasks: Sequence[ShardTask], options: ShardOptions) -> list[ShardRecord]:
    """Records of all tasks in order; those of an earlier run are taken as they are."""
    records = {task.name: record for task in tasks if (record := assembly.finished(task.name)) is not None}
    left = [task for task in tasks if task.name not in records]
    total = sum(len(task.pairs) for task in tasks)
    done = total - sum(len(task.pairs) for task in left)
    _check_budget(assembly, list(records.values()), total, options)
    bar = progress_bar(total, done, f"sharding {assembly.folder.name}", "pairs")
    with bar, closing(_run(left, options.workers)) as running:
        for task, record in running:
            assembly.announce(record)
            records[task.name] = record
            fault_point("shard.announced", 0, task.number)
            bar.update(len(task.pairs))
            _check_budget(assembly, list(records.values()), total, options)
    return [records[task.name] for task in tasks]


def _run(tasks: Sequence[ShardTask], workers: int) -> Generator[tuple[ShardTask, ShardRecord], None, None]:
    """Each task with its result, as they finish; in this process when one worker is enough."""
    if min(workers, len(tasks)) <= 1:
        for task in tasks:
            yield task, write_image_shard(task)
        return
    with _pool(min(workers, len(tasks))) as pool:
        futures: dict[Future[ShardRecord], ShardTask] = {pool.submit(write_image_shard, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died (killed from outside, or out of memory). What was finished is intact: "
                "run the same command again, with a smaller --workers if memory was short."
            ) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that leave when this one does, however it ends. Spawned: a fork would copy locks of running threads."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a pool worker has a parent"
    wait([parent.sentinel])
    os._exit(1)  # nobody is left to hear of an error; what this process was writing stays a partial file


def _check_budget(assembly: Assembly, records: Sequence[ShardRecord], total: int, options: ShardOptions) -> None:
    """DataError as soon as more pairs are rejected than the whole source may lose; the list of them is on disk then."""
    rejected = sum(len(record.rejects) for record in records)
    if rejected > options.max_reject_fraction * total:
        counts = assembly.write_rejects(sorted(records, key=lambda record: record.entry.name))
        seen = sum(len(record.rejects) + record.entry.samples for record in records)
        fraction = options.max_reject_fraction
        limit = f"but --max-reject-fraction {fraction:g} allows {int(fraction * total)} of {total}"
        raise DataError(_reject_text(assembly.folder, counts, records, seen, limit))


def _reject_text(out: Path, counts: Counter[str], records: Sequence[ShardRecord], seen: int, consequence: str) -> str:
    rejects: list[Reject] = [reject for record in records for reject in record.rejects][:_SHOWN_REJECTS]
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    examples = "; ".join(f"{reject.source} ({reject.reason}: {reject.detail})" for reject in rejects)
    return (
        f"{counts.total()} of the {seen} pairs looked at are unusable ({reasons}), {consequence}. "
        f"For example: {examples}. All are listed in {out / REJECTS_NAME}. Mend the source, delete {out} "
        "and run the same command again, or raise --max-reject-fraction."
    )
