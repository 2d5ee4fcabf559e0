"""The work of data_prep/shard.py: listed sources become a finished folder of image shards, with worker processes."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from seed_dist.data.assembly import MADE_FROM, PROGRESS, REJECTS_NAME, Assembly, Plan, Reject, ShardRecord, shard_name
from seed_dist.data.duplicates import find_copies
from seed_dist.data.filters import DELIBERATE, Filters
from seed_dist.data.image_policy import ImagePolicy
from seed_dist.data.image_shard import KEY_DIGITS, ShardTask, write_image_shard
from seed_dist.data.listing import Listing, write_listing
from seed_dist.data.manifest import Manifest
from seed_dist.data.pairs import Digest, Pair, Source
from seed_dist.data.progress import progress_bar
from seed_dist.data.sources import list_source
from seed_dist.data.table_source import Columns
from seed_dist.data.workers import run_tasks
from seed_dist.errors import DataError
from seed_dist.faults import fault_point
from seed_dist.fsio import folder_lock

_SHOWN_REJECTS = 3


@dataclass(frozen=True)
class ShardOptions:
    """How to shard. `workers`, the share of rejects that is put up with, and `update` do not change what is written."""

    shard_samples: int = 1000
    max_reject_fraction: float = 0.01
    workers: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    captions: Path | None = None
    columns: Columns = field(default_factory=Columns)
    hash_range: tuple[float, float] = (0.0, 1.0)  # keep the pairs whose name hashes into this part of 0..1
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    filters: Filters = field(default_factory=Filters)
    update: bool = False  # the set may be of an earlier state of the source: make anew what changed


@dataclass(frozen=True)
class ShardOutcome:
    """The finished set, and whether an earlier run had finished it already."""

    manifest: Manifest
    was_finished: bool


def shard_source(sources: Path | Sequence[Path], out: Path, options: ShardOptions) -> ShardOutcome:
    """Write all usable pairs of `sources` to shards in `out`, or go on where an earlier run stopped.

    Raises DataError for sources without pairs and when more pairs are damaged than `max_reject_fraction` allows,
    MismatchError when `out` was made from another source or with other options, LockedError while another job writes
    there.
    """
    paths = [sources] if isinstance(sources, Path) else list(sources)
    if any(out.resolve() == path.resolve() for path in paths):
        raise DataError(f"source and output are the same folder, {out}. Give another output folder.")
    source = list_source(paths, options.captions, options.columns)
    with folder_lock(out, "data_prep/shard.py"), _listed(source, out, options) as listing:
        assembly = Assembly(out, _plan(listing, options))
        finished = assembly.begin(options.update)
        if finished is not None:
            return ShardOutcome(finished, True)
        assembly.discard_partials()
        tasks = _tasks(listing, out, options)
        shards = _make_shards(assembly, tasks, options)
        rejected = assembly.write_rejects(shards)
        if not any(record.entry.samples for record in assembly.records(shards)):
            raise DataError(_reject_text(assembly, rejected, shards, listing.pairs, "so no usable pair is left"))
        results = {**_counted(rejected), MADE_FROM: [task.made_from for task in tasks]}
        return ShardOutcome(assembly.commit(shards, results), False)


@contextmanager
def _listed(source: Source, out: Path, options: ShardOptions) -> Iterator[Listing]:
    """The listing, in a file of the folder's progress while the block runs. DataError where it is empty."""
    path, all_pairs = out / PROGRESS / "pairs.arrow", Counter[str]()
    try:
        listing = write_listing(path, source, _within(source, options.hash_range, all_pairs), options.shard_samples)
        if not listing.pairs:
            raise DataError(_nothing_text(all_pairs.total(), options))
        yield listing
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: the progress of a run that goes on later
            path.parent.rmdir()


def _within(source: Source, hash_range: tuple[float, float], seen: Counter[str]) -> Iterator[Pair]:
    """The part of a source that belongs to a split: decided by each pair's name alone, so more pairs move none."""
    low, high = hash_range
    for pair in source.pairs():
        seen[source.kind] += 1
        if low <= zlib.crc32(pair.name.encode()) / 2**32 < high:
            yield pair


def _nothing_text(pairs: int, options: ShardOptions) -> str:
    if pairs:
        return (
            f"none of the {pairs} pairs falls into --hash-range {options.hash_range[0]} {options.hash_range[1]}. "
            "Give more pairs (some hundreds at least) or a wider range."
        )
    if options.columns.splits:
        wanted = f"{options.columns.split!r} is one of {', '.join(options.columns.splits)}"
        return f"no row is left whose {wanted}. Look at the values of that column, or name another: --split-column."
    return "the source holds no pairs: its table has no rows. Give one with rows."


def _plan(listing: Listing, options: ShardOptions) -> Plan:
    details: dict[str, Any] = {
        "source": listing.kind,
        "pairs": listing.pairs,
        "shard_samples": options.shard_samples,
        "keys": f"position in the sorted source, {KEY_DIGITS} digits",
        "images": "bytes of the source, EXIF included; formats other than JPEG, PNG and WebP as PNG",
        "captions": "UTF-8, white space and control characters as one space",
        "filters": {**options.filters.asked, **dict(options.columns.at_least)},
    }
    if options.policy != ImagePolicy():
        details["images"] = "bytes of the source where the policy asks for no change"
        details["policy"] = asdict(options.policy)
    return Plan("images", {"source": listing.fingerprint}, details)


def _tasks(listing: Listing, out: Path, options: ShardOptions) -> list[ShardTask]:
    copies: dict[int, int] = {}
    if options.filters.drop_duplicates is not None:
        copies = find_copies(listing, out / PROGRESS, options.filters, options.workers)
    tasks, positions = [], iter(sorted(copies))
    following = next(positions, None)
    for number, made_from in enumerate(listing.slices):
        first = number * listing.slice_pairs
        count = min(listing.slice_pairs, listing.pairs - first)
        own: dict[int, int] = {}
        while following is not None and following < first + count:
            own[following], following = copies[following], next(positions, None)
        if own:
            digest = Digest()
            digest.add(made_from.encode(), repr(own).encode())
            made_from = digest.value
        tasks.append(
            ShardTask(out, shard_name(number), number, first, count, listing.path, made_from,
                      options.policy, options.filters, own)
        )  # fmt: skip
    return tasks


def _make_shards(assembly: Assembly, tasks: Sequence[ShardTask], options: ShardOptions) -> list[str]:
    """The names of all tasks' shards in order, made and announced; those of an earlier run are taken as they are."""
    budget = _Budget(assembly, sum(task.pairs for task in tasks), options)
    left = []
    for task in tasks:
        record = assembly.finished(task.name, task.made_from)
        if record is None:
            left.append(task)
        else:
            budget.add(record)
    budget.check()
    bar = progress_bar(
        budget.total, budget.total - sum(task.pairs for task in left), f"sharding {assembly.folder.name}", "pairs"
    )
    with bar, closing(run_tasks(write_image_shard, left, options.workers)) as running:
        for task, record in running:
            assembly.announce(record)
            budget.add(record)
            fault_point("shard.announced", 0, task.number)
            bar.update(task.pairs)
            budget.check()
    return [task.name for task in tasks]


class _Budget:
    """How many pairs the whole source may lose to damage. What is left out on purpose does not count."""

    def __init__(self, assembly: Assembly, total: int, options: ShardOptions) -> None:
        self.total = total
        self._assembly, self._fraction = assembly, options.max_reject_fraction
        self._shards: list[str] = []
        self._seen = self._faults = 0

    def add(self, record: ShardRecord) -> None:
        self._shards.append(record.entry.name)
        self._seen += len(record.rejects) + record.entry.samples
        self._faults += sum(reject.reason not in DELIBERATE for reject in record.rejects)

    def check(self) -> None:
        """DataError as soon as more are damaged than is allowed; the list of them is on disk then."""
        if self._faults > self._fraction * self.total:
            shards = sorted(self._shards)
            counts = self._assembly.write_rejects(shards)
            allowed = f"allows {int(self._fraction * self.total)} of {self.total}"
            limit = f"but --max-reject-fraction {self._fraction:g} {allowed}"
            raise DataError(_reject_text(self._assembly, counts, shards, self._seen, limit))


def _counted(rejected: Counter[str]) -> dict[str, dict[str, int]]:
    """For the manifest: what is damaged, and what was left out on purpose."""
    return {
        "rejected": {name: count for name, count in sorted(rejected.items()) if name not in DELIBERATE},
        "filtered": {name: count for name, count in sorted(rejected.items()) if name in DELIBERATE},
    }


def _reject_text(assembly: Assembly, counts: Counter[str], shards: Sequence[str], seen: int, consequence: str) -> str:
    rejects = (reject for record in assembly.records(shards) for reject in record.rejects)
    shown: list[Reject] = list(islice(sorted(rejects, key=lambda reject: reject.reason in DELIBERATE), _SHOWN_REJECTS))
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    examples = "; ".join(f"{reject.source} ({reject.reason}: {reject.detail})" for reject in shown)
    out = assembly.folder
    return (
        f"{counts.total()} of the {seen} pairs looked at are unusable ({reasons}), {consequence}. "
        f"For example: {examples}. All are listed in {out / REJECTS_NAME}. Mend the source and run the same command "
        "again with --update, or raise --max-reject-fraction."
    )
