"""A folder of shards while it is being made: begun under a plan, announced shard by shard, committed at the end.

    FOLDER/.progress/plan.json           what is being made; a run with another plan is refused
    FOLDER/.progress/shard-000000.json   this shard is finished: its manifest entry, index rows and rejects
    FOLDER/.progress/leases/             who works on which shard, where several processes may
    FOLDER/manifest.json                 the set is finished; written last, then .progress is removed

A shard counts only when its record exists, and the record is written after the shard was flushed and renamed. So a
run that was killed anywhere is continued by the next, which makes the unannounced shards again, with the same bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seed_dist.data.filters import PASSING
from seed_dist.data.index import (
    DIGESTS,
    INDEX_NAME,
    IndexRow,
    read_rows,
    write_index,
)  # fmt: skip
from seed_dist.data.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    REMOTE_NAME,
    Manifest,
    ShardEntry,
    load_manifest,
    write_manifest,
)
from seed_dist.data.reject_list import (
    REJECTS_NAME,
    Reject,
    read_reject_list,
    reject_details,
    reject_list_problem,
    write_reject_list,
)
from seed_dist.errors import DataError, MismatchError
from seed_dist.faults import fault_point
from seed_dist.fsio import PARTIAL_SUFFIX, create_once, fsync_folder, write_json, write_text

PROGRESS = ".progress"
PLAN_NAME = "plan.json"
PRINTS = ".prints"  # fingerprints of pictures, see seed_dist.data.duplicates
_OWN_FILES = (INDEX_NAME, REJECTS_NAME, CARD_NAME)
MADE_FROM = "made_from"  # the manifest's details: the fingerprints of all parts of the source, in order
# What may differ where a set follows its source.
_OF_THE_SOURCE = frozenset({"parents.source", "details.pairs"})


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. `entry.samples` may be 0: then every pair was rejected and there is no file.

    `made_from` is a fingerprint of its part of the source, for sources that grow.
    """

    entry: ShardEntry
    rows: tuple[IndexRow, ...]
    rejects: tuple[Reject, ...] = ()
    made_from: str = ""


@dataclass(frozen=True)
class Plan:
    """What a set is made of and how; equal plans give equal bytes. `parents` and `details` go into the manifest."""

    kind: str
    parents: dict[str, str]
    details: dict[str, Any]


class Assembly:
    """The making of one set in `folder`, by one process or by several with the same plan that share the shards."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        # Through JSON, because that is how an earlier run's plan comes back: tuples are lists there.
        self.folder, self.plan = folder, Plan(**json.loads(json.dumps(asdict(plan))))
        self._progress = folder / PROGRESS

    @property
    def leases_folder(self) -> Path:
        """Where processes that make this set together keep their leases; gone once it is finished."""
        return self._progress / "leases"

    def begin(self, update: bool = False) -> Manifest | None:
        """Prepare the folder; the value is the manifest when the set is finished already under the same plan.

        With `update` the source may be another than that of an earlier plan, or pairs may be missing that may come
        another time: the set is open again, and shards whose part of the source is unchanged stay. Of several
        processes one at a time may be in here. Raises MismatchError where the folder holds (part of) a set of another
        plan, DataError where it holds other files or a finished set has lost a file.
        """
        may_differ = _OF_THE_SOURCE if update else frozenset()
        if (self.folder / MANIFEST_NAME).exists():
            manifest = load_manifest(self.folder)
            existing = Plan(manifest.kind, manifest.parents, manifest.details)
            self._compare(existing, may_differ)
            require_files(self.folder, manifest)
            if not self._differences(existing) and not (update and PASSING & manifest.details["rejected"].keys()):
                remove_progress(self.folder)
                return manifest
            self._reopen(manifest)
        plan_file = self._progress / PLAN_NAME
        if not plan_file.exists():
            self._refuse_foreign_files()
            self._progress.mkdir(parents=True, exist_ok=True)
            create_once(plan_file, json.dumps(asdict(self.plan), indent=2, sort_keys=True).encode())
        self._compare(Plan(**json.loads(plan_file.read_bytes())), may_differ)
        if update:
            write_json(plan_file, asdict(self.plan))
        return None

    def require_same(self, manifest: Manifest) -> None:
        """MismatchError where a finished set is of another plan."""
        self._compare(Plan(manifest.kind, manifest.parents, manifest.details), frozenset())

    def discard_partials(self, shard: str = "") -> None:
        """Remove what writers left unfinished, of one shard or of all. Nobody else may be writing it."""
        for leftover in self.folder.rglob(f"{Path(shard).stem}*{PARTIAL_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether a process, this or another, has committed the set."""
        return (self.folder / MANIFEST_NAME).exists()

    def finished(self, shard: str, made_from: str = "") -> ShardRecord | None:
        """The record of a shard that an earlier run finished from the same part; None where it must be made."""
        try:
            record = self._record(shard)
        except FileNotFoundError:
            return None
        path = self.folder / record.entry.name
        is_whole = path.is_file() and path.stat().st_size == record.entry.size_bytes
        if record.made_from != made_from or (record.entry.samples and not is_whole):
            return None  # the source changed, or someone removed or cut the file since: make it again
        return record

    def announce(self, record: ShardRecord) -> None:
        """Declare a shard finished; its file is on disk already."""
        value = {
            "entry": asdict(record.entry),
            "rows": [list(vars(row).values()) for row in record.rows],
            "rejects": [list(vars(reject).values()) for reject in record.rejects],
            MADE_FROM: record.made_from,
        }
        # On one line: Python's encoder of indented JSON is many times slower, and nobody reads thousands of rows.
        write_text(self._record_path(record.entry.name), json.dumps(value, ensure_ascii=False))

    def announced(self) -> set[str]:
        """Names of the shards that are finished so far."""
        return {f"{path.stem}.tar" for path in self._progress.glob("shard-*.json")}

    def withdraw(self, shard: str) -> None:
        """Take back that a shard is finished."""
        self._record_path(shard).unlink(missing_ok=True)

    def withdraw_passing(self) -> None:
        """Take back the shards whose losses may come another time, and fingerprints without such pictures. No other
        process may be at the work.
        """
        for prints in self._progress.glob("*.npz"):
            prints.unlink()
        for shard in self.announced():
            if any(reject.reason in PASSING for reject in self._record(shard).rejects):
                self.withdraw(shard)

    def records(self, shards: Iterable[str]) -> Iterator[ShardRecord]:
        """The announced records of these shards, read one by one: all of them together may not fit into memory."""
        return (self._record(shard) for shard in shards)

    def write_rejects(self, shards: Iterable[str]) -> Counter[str]:
        """rejects.parquet of announced shards; the value counts them by reason."""
        return write_reject_list(self.folder, ((record.entry.name, record.rejects) for record in self.records(shards)))

    def commit(self, shards: Sequence[str], results: dict[str, Any]) -> Manifest:
        """Write index and manifest of these announced shards, in order; `results` joins the plan's details."""
        entries: list[ShardEntry] = []

        def rows() -> Iterator[tuple[str, Sequence[IndexRow]]]:
            for record in self.records(shards):
                if record.entry.samples:
                    entries.append(record.entry)
                    yield record.entry.name, record.rows

        digests = write_index(self.folder, rows())
        fault_point("assembly.index_written", 0, len(entries))
        for path in self.folder.glob("shard-*.tar"):  # of a source that was longer once
            if path.name not in {entry.name for entry in entries}:
                path.unlink(missing_ok=True)
        details = {**self.plan.details, **results, DIGESTS: digests, **reject_details(self.folder)}
        samples = sum(entry.samples for entry in entries)
        manifest = Manifest(self.plan.kind, samples, tuple(entries), self.plan.parents, details)
        write_manifest(self.folder, manifest)
        fault_point("assembly.manifest_written", 0, len(entries))
        self.discard_partials()
        remove_progress(self.folder)
        return manifest

    def _reopen(self, manifest: Manifest) -> None:
        """A finished set is unfinished again, with the same shards. Its manifest goes last: until then it counts."""
        if problem := reject_list_problem(self.folder, manifest):
            raise DataError(
                f"{self.folder / REJECTS_NAME}: {problem}. Mend it by data_prep/verify.py --repair, or delete "
                f"{self.folder} to start anew."
            )
        rows = read_rows(self.folder, manifest)
        rejects: dict[str, list[Reject]] = defaultdict(list)
        for shard, reject in read_reject_list(self.folder):
            rejects[shard].append(reject)
        entries = {entry.name: entry for entry in manifest.shards}
        for number, made_from in enumerate(manifest.details[MADE_FROM]):
            name = shard_name(number)
            entry = entries.get(name, ShardEntry(name, 0, 0, ""))
            self.announce(ShardRecord(entry, next(rows) if entry.samples else (), tuple(rejects[name]), made_from))
        write_json(self._progress / PLAN_NAME, asdict(self.plan))
        (self.folder / MANIFEST_NAME).unlink()
        fsync_folder(self.folder)

    def _record(self, shard: str) -> ShardRecord:
        values: dict[str, Any] = json.loads(self._record_path(shard).read_bytes())
        rows = tuple(_index_row(row) for row in values["rows"])
        rejects = tuple(Reject(*row) for row in values["rejects"])
        return ShardRecord(ShardEntry(**values["entry"]), rows, rejects, values[MADE_FROM])

    def _record_path(self, shard: str) -> Path:
        return self._progress / f"{Path(shard).stem}.json"

    def _differences(self, existing: Plan) -> dict[str, tuple[Any, Any]]:
        """What the folder has and what is asked for, where they are not the same."""
        details = {name: existing.details.get(name) for name in self.plan.details}
        found = _flat({"kind": existing.kind, "parents": existing.parents, "details": details})
        asked = _flat(asdict(self.plan))
        names = sorted(found.keys() | asked.keys())
        return {n: (found.get(n), asked.get(n)) for n in names if found.get(n) != asked.get(n)}

    def _compare(self, existing: Plan, may_differ: frozenset[str]) -> None:
        """MismatchError that names the first entry in which the folder differs from what is asked for."""
        differences = self._differences(existing)
        update = ", let it follow its source with --update" if differences.keys() <= _OF_THE_SOURCE else ""
        for name, (found, asked) in differences.items():
            if name not in may_differ:
                raise MismatchError(
                    f"{name.removeprefix('details.')} of {self.folder}",
                    found,
                    asked,
                    f"Give the source and options it was made with{update}, choose another folder, or delete it to "
                    "start anew.",
                )

    def _refuse_foreign_files(self) -> None:
        """Only what an interrupted begin or a deleted manifest may have left is taken over."""
        foreign = sorted(
            path.name
            for path in self.folder.iterdir()
            if not (path.name.startswith((".", *_OWN_FILES)) or path.match("shard-*.tar*"))
        )
        if foreign:
            raise DataError(
                f"{self.folder} holds other files ({', '.join(foreign[:3])}): choose a new or empty folder."
            )


def remove_progress(folder: Path) -> None:
    """Forget what an unfinished work has left: in one step, so that nobody takes a half of it for work that goes on."""
    with suppress(FileNotFoundError):
        os.replace(folder / PROGRESS, folder / f"{PROGRESS}-{secrets.token_hex(4)}")
    for leftover in folder.glob(f"{PROGRESS}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def shard_name(number: int) -> str:
    """The file of shard `number`, from 0."""
    return f"shard-{number:06d}.tar"


def _index_row(fields: Any) -> IndexRow:
    """A row as it comes back from JSON, where tuples are lists."""
    key, offset, size, checksum, caption, ext, others = fields
    return IndexRow(key, offset, size, checksum, caption, ext, tuple(others))


def require_files(folder: Path, manifest: Manifest) -> None:
    """DataError naming the first file of a finished set that is missing or whose size is not the manifest's.

    Shards that lie elsewhere are looked at when they are read.
    """
    is_remote = (folder / REMOTE_NAME).is_file()
    for entry in () if is_remote else manifest.shards:
        path = folder / entry.name
        found = path.stat().st_size if path.is_file() else None
        if found != entry.size_bytes:
            state = "is missing" if found is None else f"has {found} bytes, but the manifest says {entry.size_bytes}"
            raise DataError(f"shard {path} {state}. Restore it from a copy, or delete {folder} and make the set again.")
    if not (folder / INDEX_NAME).is_file():
        raise DataError(f"{folder / INDEX_NAME} is missing. Restore it, or delete {folder} and make the set again.")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as {dotted name: value}."""
    if not isinstance(value, dict):
        return {prefix: value}
    pairs = (_flat(part, f"{prefix}.{name}" if prefix else str(name)).items() for name, part in value.items())
    return {name: part for items in pairs for name, part in items}
