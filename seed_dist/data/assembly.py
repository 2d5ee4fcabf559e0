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
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seed_dist.data.index import DIGESTS, INDEX_NAME, IndexRow, write_index
from seed_dist.data.manifest import MANIFEST_NAME, Manifest, ShardEntry, load_manifest, write_manifest
from seed_dist.errors import DataError, MismatchError
from seed_dist.faults import fault_point
from seed_dist.fsio import PARTIAL_SUFFIX, atomic_file, create_once, write_json

REJECTS_NAME = "rejects.parquet"
_PROGRESS = ".progress"
_OWN_FILES = (INDEX_NAME, REJECTS_NAME)
_REJECT_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class Reject:
    """A pair that is left out: its name in the source, the kind of fault, and what was found."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. `entry.samples` may be 0: then every pair was rejected and there is no file."""

    entry: ShardEntry
    rows: tuple[IndexRow, ...]
    rejects: tuple[Reject, ...] = ()


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
        self._progress = folder / _PROGRESS

    @property
    def leases_folder(self) -> Path:
        """Where processes that make this set together keep their leases; gone once it is finished."""
        return self._progress / "leases"

    def begin(self) -> Manifest | None:
        """Prepare the folder; the value is the manifest when the set is finished already under the same plan.

        Raises MismatchError where the folder holds (part of) a set of another plan, DataError where it holds other
        files or a finished set has lost a file.
        """
        if (self.folder / MANIFEST_NAME).exists():
            manifest = load_manifest(self.folder)
            self._compare(Plan(manifest.kind, manifest.parents, manifest.details))
            require_files(self.folder, manifest)
            shutil.rmtree(self._progress, ignore_errors=True)
            return manifest
        plan_file = self._progress / "plan.json"
        if not plan_file.exists():
            self._refuse_foreign_files()
            self._progress.mkdir(parents=True, exist_ok=True)
            create_once(plan_file, json.dumps(asdict(self.plan), indent=2, sort_keys=True).encode())
        self._compare(Plan(**json.loads(plan_file.read_bytes())))
        return None

    def discard_partials(self, shard: str = "") -> None:
        """Remove what writers left unfinished, of one shard or of all. Nobody else may be writing it."""
        for leftover in self.folder.rglob(f"{shard}*{PARTIAL_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether a process, this or another, has committed the set."""
        return (self.folder / MANIFEST_NAME).exists()

    def withdraw(self, shard: str) -> None:
        """Take back that a shard is finished."""
        self._record_path(shard).unlink(missing_ok=True)

    def announced(self) -> set[str]:
        """Names of the shards that are finished so far."""
        return {f"{path.stem}.tar" for path in self._progress.glob("shard-*.json")}

    def finished(self, shard: str) -> ShardRecord | None:
        """The record of a shard that an earlier run finished; None where it must be made."""
        try:
            values = json.loads(self._record_path(shard).read_bytes())
        except FileNotFoundError:
            return None
        entry = ShardEntry(**values["entry"])
        path = self.folder / entry.name
        if entry.samples and (not path.is_file() or path.stat().st_size != entry.size_bytes):
            return None  # someone removed or cut the file since: make it again
        rows, rejects = (IndexRow(*row) for row in values["rows"]), (Reject(*row) for row in values["rejects"])
        return ShardRecord(entry, tuple(rows), tuple(rejects))

    def announce(self, record: ShardRecord) -> None:
        """Declare a shard finished; its file is on disk already."""
        value = {
            "entry": asdict(record.entry),
            "rows": [list(asdict(row).values()) for row in record.rows],
            "rejects": [list(asdict(reject).values()) for reject in record.rejects],
        }
        write_json(self._record_path(record.entry.name), value)

    def write_rejects(self, records: Sequence[ShardRecord]) -> Counter[str]:
        """rejects.parquet of all records; the value counts them by reason."""
        rejects = [reject for record in records for reject in record.rejects]
        columns = {name: [getattr(reject, name) for reject in rejects] for name in _REJECT_SCHEMA.names}
        with atomic_file(self.folder / REJECTS_NAME) as file:
            pq.write_table(pa.table(columns, schema=_REJECT_SCHEMA), file)
        return Counter(reject.reason for reject in rejects)

    def commit(self, records: Sequence[ShardRecord], results: dict[str, Any]) -> Manifest:
        """Write index and manifest of all shards, in order; `results` joins the plan's details."""
        full = [record for record in records if record.entry.samples]
        digests = write_index(self.folder, [(record.entry.name, record.rows) for record in full])
        fault_point("assembly.index_written", 0, len(full))
        entries = tuple(record.entry for record in full)
        details = {**self.plan.details, **results, DIGESTS: digests}
        samples = sum(entry.samples for entry in entries)
        manifest = Manifest(self.plan.kind, samples, entries, self.plan.parents, details)
        write_manifest(self.folder, manifest)
        fault_point("assembly.manifest_written", 0, len(full))
        self.discard_partials()
        shutil.rmtree(self._progress, ignore_errors=True)
        return manifest

    def _record_path(self, shard: str) -> Path:
        return self._progress / f"{Path(shard).stem}.json"

    def _compare(self, existing: Plan) -> None:
        """MismatchError that names the first entry in which the folder differs from what is asked for."""
        details = {name: existing.details.get(name) for name in self.plan.details}
        found = _flat({"kind": existing.kind, "parents": existing.parents, "details": details})
        asked = _flat(asdict(self.plan))
        for name in sorted(found.keys() | asked.keys()):
            if found.get(name) != asked.get(name):
                raise MismatchError(
                    f"{name.removeprefix('details.')} of {self.folder}",
                    found.get(name),
                    asked.get(name),
                    "Give the source and options it was made with, choose another folder, or delete it to start anew.",
                )

    def _refuse_foreign_files(self) -> None:
        """Only what an interrupted begin or a deleted manifest may have left is taken over."""
        foreign = sorted(
            path.name
            for path in self.folder.iterdir()
            if not (path.name.startswith(".") or path.name.startswith(_OWN_FILES) or path.match("shard-*.tar*"))
        )
        if foreign:
            raise DataError(
                f"{self.folder} holds other files ({', '.join(foreign[:3])}): choose a new or empty folder."
            )


def require_files(folder: Path, manifest: Manifest) -> None:
    """DataError naming the first file of a finished set that is missing or whose size is not the manifest's."""
    for entry in manifest.shards:
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
