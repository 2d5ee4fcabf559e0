"""Is a finished set, of images or features, what its manifest says? Finds all that is wrong, and changes nothing.

A shard's SHA-256 says whether it is intact. Its tar is walked through as well, member by member, so that the report
names the samples that are damaged, and that an index which does not fit its shards is noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from isal.isal_zlib import crc32

from seed_dist.data.arrow_table import DAMAGE
from seed_dist.data.assembly import PRINTS, PROGRESS
from seed_dist.data.filters import DELIBERATE
from seed_dist.data.index import INDEX_NAME, Index
from seed_dist.data.manifest import CARD_NAME, MANIFEST_NAME, REMOTE_NAME, Manifest, ShardEntry, load_manifest
from seed_dist.data.pairs import readable
from seed_dist.data.reject_list import REJECTS_NAME, read_reject_list, reject_list_problem
from seed_dist.data.request import REQUEST_NAME
from seed_dist.data.tar_members import DamagedTarError, tar_members
from seed_dist.data.views import source_folder
from seed_dist.data.workers import run_tasks
from seed_dist.errors import DataError
from seed_dist.fsio import PARTIAL_SUFFIX, sha256_file

_OWN = frozenset({CARD_NAME, MANIFEST_NAME, INDEX_NAME, REJECTS_NAME, REQUEST_NAME, PRINTS, ".lock"})
_SHOWN = 5  # samples of one shard that are named
_CHUNK_BYTES = 1 << 20

# What is wrong with a file decides what mends it.
SHARD, EXTRA, INDEX, REJECTS, MANIFEST, PARENT, FOREIGN = (
    "shard", "extra", "index", "rejects", "manifest", "parent", "foreign",
)  # fmt: skip

_AGAIN = {
    "images": "With --repair it is made again from the source.",
    "features": "With --repair it is encoded again.",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong: the file, what is wrong with it, and what to do. `kind` is one of the constants above."""

    kind: str
    path: Path
    what: str
    action: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.action}"


@dataclass(frozen=True)
class _Place:
    """A sample as the index has it."""

    key: str
    ext: str
    offset: int
    size: int
    checksum: int


@dataclass(frozen=True)
class ShardCheck:
    """A shard with what manifest and index say of it: the columns of `_Place`; none where the index cannot be read."""

    path: Path
    entry: ShardEntry
    kind: str  # of the set
    columns: tuple[Any, ...] | None

    def places(self) -> list[_Place]:
        return [_Place(*values) for values in zip(*self.columns, strict=True)] if self.columns else []


def verify(folder: Path, *, quick: bool = False, workers: int = 1, progress: Callable[[int], object]) -> list[Finding]:
    """All findings about a set, by file; none where it is intact. `quick` reads no shard, only what describes them.

    `progress` is told the bytes of every shard that was checked. Raises DataError where the folder holds no set,
    or the shards are elsewhere.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Give the folder of a set: shards with a {MANIFEST_NAME}.")
    try:
        manifest = load_manifest(folder)
    except DataError as error:
        if not (folder / MANIFEST_NAME).exists():
            raise
        return [Finding(MANIFEST, folder / MANIFEST_NAME, str(error), "With --repair all shards are made again.")]
    if (folder / REMOTE_NAME).is_file():
        raise DataError(
            f"the shards of {folder} lie elsewhere, as its {REMOTE_NAME} says. Verify the set there; whatever reads it "
            "here checks each sample."
        )
    found = [*_files(folder, manifest), *_parents(folder, manifest), *_rejects(folder, manifest)]
    index, damaged = _index(folder, manifest)
    found += damaged
    whole = {entry.name for entry in manifest.shards} - {finding.path.name for finding in found}
    if not quick:
        entries = [entry for entry in manifest.shards if entry.name in whole]
        tasks = [ShardCheck(folder / entry.name, entry, manifest.kind, index.get(entry.name)) for entry in entries]
        with closing(run_tasks(check_shard, tasks, workers)) as running:
            for task, findings in running:
                found += findings
                progress(task.entry.size_bytes)
    return sorted(found, key=lambda finding: (finding.path.name, finding.what))


def _files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Files that are missing, have another size, or do not belong here."""
    again = _AGAIN[manifest.kind]
    for entry in manifest.shards:
        path = folder / entry.name
        if not path.is_file():
            yield Finding(SHARD, path, "it is missing", again)
        elif (size := path.stat().st_size) != entry.size_bytes:
            yield Finding(SHARD, path, f"it has {size} bytes, the manifest says {entry.size_bytes}", again)
    listed = {entry.name for entry in manifest.shards}
    for path in sorted(folder.iterdir()):
        if path.name in listed | _OWN or path.name.startswith(PROGRESS):
            continue
        if path.match("shard-*.tar") or path.name.endswith(PARTIAL_SUFFIX):
            yield Finding(EXTRA, path, "the manifest does not list it", "With --repair it is removed.")
        else:
            yield Finding(FOREIGN, path, "it is no part of a set", "Move it elsewhere.")


def _parents(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Of features: the sets they were made from, where these stand beside them as a workspace has them."""
    if manifest.kind != "features":
        return
    for name, made_from in manifest.parents.items():
        parent = source_folder(folder, name)
        if not (parent / MANIFEST_NAME).is_file():
            continue
        try:
            found = load_manifest(parent).fingerprint
        except DataError as error:
            found = f"unknown ({error})"
        if found != made_from:
            what = f"it was made from {name} with fingerprint {made_from}, but {parent} has {found}"
            yield Finding(PARENT, folder / MANIFEST_NAME, what, "Encode again, or bring that set back.")


def _rejects(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """The list of what was left out is the one that was written, with as many rows per reason as the manifest counts.

    Features have one where there was anything to list.
    """
    if "rejected" not in manifest.details:
        return
    path, again = folder / REJECTS_NAME, _AGAIN[manifest.kind]
    problem, counts = reject_list_problem(folder, manifest), Counter[str]()
    if problem is None:
        try:
            counts.update(reject.reason for _, reject in read_reject_list(folder))
        except (*DAMAGE, TypeError) as error:
            problem = f"it cannot be read ({error})"
    if problem is not None:
        yield Finding(REJECTS, path, problem, again)
        return
    filtered = manifest.details.get("filtered", {})
    expected = {**manifest.details["rejected"], **filtered}
    if dict(counts) != expected:
        what = f"it lists {_counts(counts)}, the manifest counts {_counts(expected)}"
        yield Finding(REJECTS, path, what, again)
    misplaced = {reason for reason in counts if (reason in DELIBERATE) != (reason in filtered)}
    if misplaced and dict(counts) == expected:
        what = f"the manifest counts {', '.join(sorted(misplaced))} on the wrong side of damaged and left out"
        yield Finding(MANIFEST, folder / MANIFEST_NAME, what, "Make the set again with this version.")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "nothing"


def _index(folder: Path, manifest: Manifest) -> tuple[dict[str, tuple[Any, ...]], list[Finding]]:
    """What the index says of each shard, and what is wrong with it."""
    try:
        index = Index(folder, manifest)
        keys, _, exts = index.keys, index.all_captions, index.exts
    except DataError as error:
        return {}, [Finding(INDEX, folder / INDEX_NAME, str(error), "With --repair it is made again from the shards.")]
    columns = (keys, exts, index.offset, index.size, index.checksum)
    first = index.first_row.tolist()
    shards = {
        entry.name: tuple(column[start:end] for column in columns)
        for entry, start, end in zip(manifest.shards, first[:-1], first[1:], strict=True)
    }
    return shards, []


def check_shard(task: ShardCheck) -> list[Finding]:
    """What is wrong with one shard of the right size; in a worker process."""
    try:
        intact = sha256_file(task.path) == task.entry.sha256
        problems = list(_members(task))
    except OSError as error:
        intact, problems = False, [f"it cannot be read: {error.strerror}"]
    if intact and not problems:
        return []
    what = "its SHA-256 is not the manifest's" if not intact else "it is what the manifest lists, but not the index"
    shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
    where = f": {shown}" if shown else ", though every sample is intact: its headers or padding were changed"
    if intact:
        return [Finding(INDEX, task.path, what + where, "With --repair the index is made again from the shards.")]
    return [Finding(SHARD, task.path, what + where, _AGAIN[task.kind])]


def _members(task: ShardCheck) -> Iterator[str]:
    """How the tar differs from the index."""
    listed = task.places()
    places = {f"{place.key}.{place.ext}": place for place in listed}
    keys = {place.key for place in listed}
    try:
        with task.path.open("rb") as file:
            for member in tar_members(task.path):
                name = readable(member.name)
                place = places.pop(member.name, None)
                if member.fault is not None:
                    yield f"member {name}: {member.fault}"
                elif listed and member.name.partition(".")[0] not in keys:
                    yield f"member {name} is of no sample that the index has"
                elif place is not None:
                    yield from _difference(place, member.offset, member.size, file)
    except DamagedTarError as error:
        yield str(error)
    else:
        yield from (f"sample {name} is missing" for name in places)


def _difference(place: _Place, offset: int, size: int, file: IO[bytes]) -> Iterator[str]:
    if (offset, size) != (place.offset, place.size):
        yield (
            f"sample {place.key} lies at {offset} with {size} bytes, the index says {place.offset} with {place.size}"
        )
    elif (found := _crc(file, offset, size)) != place.checksum:
        yield f"sample {place.key} has checksum {found:08x}, {place.checksum:08x} was written"


def _crc(file: IO[bytes], offset: int, size: int) -> int:
    file.seek(offset)
    checksum = 0
    while size and (chunk := file.read(min(size, _CHUNK_BYTES))):
        checksum, size = crc32(chunk, checksum), size - len(chunk)
    return checksum
