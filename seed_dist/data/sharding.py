"""The work of data_prep/shard.py: listed sources become a finished folder of image shards, by any number of processes.

One of them lists the source, all make shards, and one writes index and manifest; leases say which (`joint_work`). What
is written does not depend on their number, nor on which of them died meanwhile.
"""

from __future__ import annotations

import secrets
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from seed_dist.data.assembly import (
    MADE_FROM,
    PLAN_NAME,
    PRINTS,
    PROGRESS,
    Assembly,
    Plan,
    ShardRecord,
    remove_progress,
    shard_name,
)
from seed_dist.data.duplicates import find_copies, print_names
from seed_dist.data.filters import DELIBERATE
from seed_dist.data.image_policy import ImagePolicy
from seed_dist.data.image_shard import KEY_DIGITS, ShardTask, write_image_shard
from seed_dist.data.joint_work import do_jointly, only_one, take_part, taking_part
from seed_dist.data.leases import Holding, LeaseLostError, Leases
from seed_dist.data.listing import Listing, load_listing, save_listing, write_listing
from seed_dist.data.manifest import Manifest, load_manifest
from seed_dist.data.pairs import Digest, Pair, Source
from seed_dist.data.progress import progress_bar
from seed_dist.data.reject_list import REJECTS_NAME, Reject
from seed_dist.data.request import Request, ShardOptions, load_request, save_request
from seed_dist.data.sources import list_source
from seed_dist.errors import DataError, SeedDistError
from seed_dist.faults import fault_point

_SHOWN_REJECTS = 3


@dataclass(frozen=True)
class ShardOutcome:
    """The finished set, and whether an earlier run had finished it already."""

    manifest: Manifest
    was_finished: bool


def shard_source(sources: Path | Sequence[Path], out: Path, options: ShardOptions) -> ShardOutcome:
    """Write all usable pairs of `sources` to shards in `out`, or go on where an earlier run stopped.

    Any number of processes, here or on other machines, may do so at once: they share the shards. Raises DataError for
    sources without pairs and when more pairs are damaged than `max_reject_fraction` allows, MismatchError when `out`
    was made, or is being made, from another source or with other options.
    """
    paths = [sources] if isinstance(sources, Path) else list(sources)
    if any(out.resolve() == path.resolve() for path in paths):
        raise DataError(f"source and output are the same folder, {out}. Give another output folder.")
    leases = Leases(out / PROGRESS / "leases", options.stale_after_s)
    leases.open_folder()
    with ExitStack() as stack:
        with only_one(leases, "opening", open_again=True):
            others = taking_part(leases)
            try:
                listing = _listed(paths, out, options, others)
                assembly = Assembly(out, _plan(listing, options))
                finished = assembly.begin(options.update)
                if finished is not None:
                    return ShardOutcome(finished, True)
                if not others:
                    assembly.discard_partials()
                    if options.update:
                        assembly.withdraw_passing()
                    save_request(out, Request.of(paths, options))
                stack.enter_context(take_part(leases))
            except SeedDistError:
                if not others and not (out / PROGRESS / PLAN_NAME).exists():
                    remove_progress(out)  # refused before there was any
                raise
            except FileNotFoundError:
                if not others:
                    raise
                return shard_source(sources, out, options)  # they have just finished and removed what this one uses
        try:
            return ShardOutcome(_make_set(assembly, listing, options, leases), False)
        except FileNotFoundError:
            if not assembly.is_finished():
                raise
            return ShardOutcome(load_manifest(out), False)  # by another process, which removed what this one looked for


def _make_set(assembly: Assembly, listing: Listing, options: ShardOptions, leases: Leases) -> Manifest:
    """What remains of the work after the listing, with the others that take part in it."""
    prints = assembly.folder / PRINTS
    tasks = make_tasks(listing, assembly.folder, prints, options, leases)
    shards = _make_shards(assembly, tasks, options, leases)
    with only_one(leases, "closing"):
        rejected = assembly.write_rejects(shards)
        if not any(record.entry.samples for record in assembly.records(shards)):
            raise DataError(_reject_text(assembly, rejected, shards, listing.pairs, "so no usable pair is left"))
        _remove_other_prints(prints, listing, options)
        results = {**_counted(rejected), MADE_FROM: [task.made_from for task in tasks]}
        return assembly.commit(shards, results)


def _listed(paths: list[Path], out: Path, options: ShardOptions, others: Sequence[Holding]) -> Listing:
    """The listing that the processes share; the first of them makes it.

    Raises MismatchError where the others were asked for something else, DataError where the source holds no pairs.
    """
    progress = out / PROGRESS
    if others:
        Request.of(paths, options).require_same(load_request(out), out, others[0].owner)
        with suppress(FileNotFoundError):  # they have just finished
            return load_listing(progress)
    for leftover in progress.glob("pairs-*"):
        leftover.unlink()
    path = progress / f"pairs-{secrets.token_hex(4)}.arrow"
    listing = make_listing(path, paths, options)
    save_listing(progress, listing)
    return listing


def make_listing(path: Path, paths: Sequence[Path], options: ShardOptions) -> Listing:
    """The pairs of the sources that are asked for, in a file. DataError where there are none."""
    source, seen = list_source(paths, options.captions, options.columns, options.patience), Counter[str]()
    pairs = _within(source, options.hash_range, seen)
    listing = write_listing(path, source, pairs, options.shard_samples, options.patience)
    if not listing.pairs:
        raise DataError(_nothing_text(seen.total(), options))
    return listing


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
        details["policy"] = options.policy.details
    return Plan("images", {"source": listing.fingerprint}, details)


def make_tasks(listing: Listing, out: Path, prints: Path, options: ShardOptions, leases: Leases) -> list[ShardTask]:
    """A task per slice, of a set in `out`. Duplicates are looked for first, where that is asked for, with the
    fingerprints in the folder `prints`.
    """
    copies: dict[int, int] = {}
    if options.filters.drop_duplicates is not None:
        copies = find_copies(listing, out, prints, options, leases)
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
                      options.policy, options.filters, options.patience, own)
        )  # fmt: skip
    return tasks


def _remove_other_prints(prints: Path, listing: Listing, options: ShardOptions) -> None:
    """Keep the fingerprints of this state of the source."""
    names = () if options.filters.drop_duplicates is None else print_names(listing, options.filters)
    for path in set(prints.glob("*")) - {prints / name for name in names}:
        path.unlink(missing_ok=True)
    if not names and prints.is_dir():
        prints.rmdir()


def _make_shards(assembly: Assembly, tasks: Sequence[ShardTask], options: ShardOptions, leases: Leases) -> list[str]:
    """The names of all tasks' shards in order, made and announced, here or by other processes, now or earlier."""
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
    with bar, closing(do_jointly(partial(_make_shard, assembly, leases), left, options.workers, leases)) as running:
        for task, record in running:
            budget.add(record)
            bar.update(task.pairs)
            budget.check()
    return [task.name for task in tasks]


def _make_shard(assembly: Assembly, leases: Leases, task: ShardTask) -> ShardRecord | None:
    """Make and announce a shard, in a worker process; or its record by another process, None while one makes it."""
    lease = leases.claim(task.piece)
    if lease is None:
        return None
    with lease:
        record = assembly.finished(task.name, task.made_from)
        if record is not None:
            return record
        if assembly.is_finished():  # and its records are gone; a process that comes late has made the folder again
            return None
        if leases.was_taken_over(task.piece):
            assembly.discard_partials(task.name)
        try:
            record = write_image_shard(task, lease)
        except LeaseLostError:
            return None
        assembly.announce(record)
        fault_point("shard.announced", 0, task.number)
        return record


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
