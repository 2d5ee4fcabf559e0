"""Makes again what `verification` found broken in a set, and nothing else; says what it cannot.

A shard of images comes from its slice of the source, a shard of features from its encoder, as `.source.json` tells, and
takes its place only if it has the bytes that the manifest lists. The index comes from the shards, captions of features
from the set that they were made from. Features without `.source.json` are opened again without their broken shards, and
data_prep/encode.py makes those alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from isal.isal_zlib import crc32

from seed_dist.data.assembly import MADE_FROM, PLAN_NAME, PRINTS, PROGRESS, Assembly, Plan, ShardRecord
from seed_dist.data.image_shard import ShardTask, write_image_shard
from seed_dist.data.index import DIGESTS, INDEX_NAME, Index, IndexRow, read_rows, write_index
from seed_dist.data.leases import Leases
from seed_dist.data.manifest import MANIFEST_NAME, QUARANTINED, Manifest, ShardEntry, load_manifest
from seed_dist.data.reject_list import REJECTS_NAME, Reject, write_reject_list
from seed_dist.data.request import REQUEST_NAME, load_request
from seed_dist.data.sharding import make_listing, make_tasks, shard_source
from seed_dist.data.tar_members import DamagedTarError, tar_members
from seed_dist.data.verification import EXTRA, INDEX, MANIFEST, REJECTS, SHARD, Finding
from seed_dist.data.views import source_folder, target_and_view
from seed_dist.data.workers import run_tasks
from seed_dist.errors import DataError, SeedDistError
from seed_dist.fsio import fsync_folder, write_json

Encode = Callable[[Path, Manifest, set[str], Path], Iterator[ShardRecord]]


def repair(folder: Path, findings: Sequence[Finding], workers: int, encode: Encode) -> list[str]:
    """Mend what can be mended; the value says what was done, and for the rest why it was not, one line each.

    `encode` makes shards of features again: `seed_dist.encode.again.encode_shards`, which this layer must not import.
    """
    said = [_removed(finding.path) for finding in findings if finding.kind == EXTRA]
    kinds = {finding.kind for finding in findings}
    try:
        if MANIFEST in kinds:
            return [*said, _all_again(folder, workers)]
        manifest = load_manifest(folder)
        shards = {finding.path.name for finding in findings if finding.kind == SHARD}
        if manifest.kind == "features" and shards and not (folder / REQUEST_NAME).is_file():
            return [*said, *_opened_again(folder, manifest, shards)]
        with _scratch(folder) as scratch:
            if shards or REJECTS in kinds:
                if manifest.kind == "features":
                    said += _from_encoder(folder, manifest, shards, REJECTS in kinds, (scratch, encode))
                else:
                    said += _from_source(folder, manifest, shards, REJECTS in kinds, (scratch, workers))
            if INDEX in kinds:
                said.append(_index_again(folder, manifest, scratch))
    except SeedDistError as error:
        said.append(f"not mended: {error}")
    return said


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder on the same disk; what a killed repair leaves there is removed by the next work on the set."""
    scratch = folder / f"{PROGRESS}-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _removed(path: Path) -> str:
    path.unlink()
    return f"{path} is removed"


def _all_again(folder: Path, workers: int) -> str:
    """Without a manifest nothing tells which bytes are right."""
    request = load_request(folder)
    options = request.shard_options(workers)
    with _scratch(folder) as scratch:
        make_listing(scratch / "pairs.arrow", [Path(source) for source in request.sources], options)
    (folder / MANIFEST_NAME).unlink()
    shard_source([Path(source) for source in request.sources], folder, options)
    return f"{folder} is made again as a whole"


def _from_source(
    folder: Path, manifest: Manifest, shards: set[str], rejects: bool, means: tuple[Path, int]
) -> Iterator[str]:
    """Shards by name, and the list of rejects, for which every slice is looked at again."""
    scratch, workers = means
    tasks = _tasks(folder, scratch, workers)
    expected = {entry.name: entry for entry in manifest.shards}
    recorded = manifest.details[MADE_FROM]
    changed = {task.name for task in tasks if [task.made_from] != recorded[task.number : task.number + 1]}
    changed |= shards - {task.name for task in tasks}
    records: dict[str, tuple[Reject, ...]] = {}
    wanted = [task for task in tasks if (rejects or task.name in shards) and task.name not in changed]
    with closing(run_tasks(write_image_shard, wanted, workers)) as running:
        for task, record in running:
            records[task.name] = record.rejects
            if task.name in shards:
                made_by = "another version of Pillow, or did a picture not come in time"
                yield _put_in_place(folder, scratch, record, expected[task.name], made_by)
            (scratch / task.name).unlink(missing_ok=True)
    for name in sorted(changed & shards):
        yield f"not mended: {folder / name}: its pairs in the source have changed since. Bring them back, or --update."
    if rejects and (changed or len(tasks) != len(recorded)):
        yield f"not mended: {folder / REJECTS_NAME}: the source has changed since. Bring it back, or --update."
    elif rejects:
        write_reject_list(folder, ((task.name, records[task.name]) for task in tasks))
        yield f"{folder / REJECTS_NAME} is made again"


def _put_in_place(folder: Path, scratch: Path, record: ShardRecord, expected: ShardEntry, made_by: str) -> str:
    """Let a shard take its place if it is what the manifest lists; the value says whether it did."""
    path = folder / expected.name
    if record.entry != expected:
        return f"not mended: {path}: made again it has other bytes than the manifest lists. Was it made with {made_by}?"
    os.replace(scratch / expected.name, path)
    fsync_folder(folder)
    return f"{path} is made again"


def _from_encoder(
    folder: Path, manifest: Manifest, shards: set[str], rejects: bool, means: tuple[Path, Encode]
) -> Iterator[str]:
    """Shards by name, and the list of rejects, for which every shard that lost something is encoded again."""
    scratch, encode = means
    expected = {entry.name: entry for entry in manifest.shards}
    ends = list(accumulate(entry.samples for entry in manifest.shards))
    losers = {manifest.shards[bisect_right(ends, row)].name for row in manifest.details.get(QUARANTINED, ())}
    records = []
    for record in encode(folder, manifest, shards | losers if rejects else shards, scratch):
        records.append((record.entry.name, record.rejects))
        if record.entry.name in shards:
            made_by = "another version of torch, on other hardware, or with another --batch-size"
            yield _put_in_place(folder, scratch, record, expected[record.entry.name], made_by)
    if rejects:
        write_reject_list(folder, records)
        yield f"{folder / REJECTS_NAME} is made again"


def _tasks(folder: Path, scratch: Path, workers: int) -> list[ShardTask]:
    request = load_request(folder)
    options = request.shard_options(workers)
    try:
        listing = make_listing(scratch / "pairs.arrow", [Path(source) for source in request.sources], options)
    except DataError as error:
        raise DataError(f"the source that {folder / REQUEST_NAME} names cannot be read: {error}") from error
    leases = Leases(scratch / "leases")
    leases.open_folder()
    return make_tasks(listing, scratch, folder / PRINTS, options, leases)


def _index_again(folder: Path, manifest: Manifest, scratch: Path) -> str:
    """From the shards alone; taken only if every column has the digest that the manifest lists."""
    try:
        rows = (_feature_rows if manifest.kind == "features" else _image_rows)(folder, manifest)
        digests = write_index(scratch, rows)
    except (DamagedTarError, OSError, ValueError, KeyError) as error:
        return f"not mended: {folder / INDEX_NAME}: a shard that it comes from is damaged ({error})"
    if digests != manifest.details[DIGESTS]:
        return f"not mended: {folder / INDEX_NAME}: made again from the shards it is not what the manifest lists"
    os.replace(scratch / INDEX_NAME, folder / INDEX_NAME)
    fsync_folder(folder)
    return f"{folder / INDEX_NAME} is made again"


def _image_rows(folder: Path, manifest: Manifest) -> Iterator[tuple[str, list[IndexRow]]]:
    return ((entry.name, list(_rows(folder / entry.name))) for entry in manifest.shards)


def _feature_rows(folder: Path, manifest: Manifest) -> Iterator[tuple[str, list[IndexRow]]]:
    """Features have the shards, keys and captions of what they were made from. DataError where that is not there."""
    source = source_folder(folder, manifest.details["source"])
    of_source = load_manifest(source)
    Index(source, of_source)  # raises where it is not intact
    for entry, rows in zip(manifest.shards, read_rows(source, of_source), strict=True):
        path = folder / entry.name
        with path.open("rb") as file:
            members = {member.name: member for member in tar_members(path)}
            places = [members[f"{row.key}.npy"] for row in rows]
            checksums = [_crc(file, place.offset, place.size) for place in places]
        yield (
            entry.name,
            [
                replace(row, offset=place.offset, size=place.size, checksum=checksum, ext="npy")
                for row, place, checksum in zip(rows, places, checksums, strict=True)
            ],
        )


def _crc(file: IO[bytes], offset: int, size: int) -> int:
    file.seek(offset)
    return int(crc32(file.read(size)))


def _rows(shard: Path) -> Iterator[IndexRow]:
    """The index rows of a shard of images, as `image_shard.add_sample` wrote its members."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for member in tar_members(shard):
        key, _, ext = member.name.partition(".")
        samples.setdefault(key, {})[ext] = (member.offset, member.size)
    with shard.open("rb") as file:

        def read(place: tuple[int, int]) -> bytes:
            file.seek(place[0])
            return file.read(place[1])

        for key, places in samples.items():
            caption = read(places["txt"]).decode()
            others = json.loads(read(places["json"]))["captions"][1:] if "json" in places else []
            (ext,) = places.keys() - {"txt", "json"}
            yield IndexRow(key, *places[ext], crc32(read(places[ext])), caption, ext, tuple(others))


def _opened_again(folder: Path, manifest: Manifest, shards: set[str]) -> Iterator[str]:
    """Open the set again, as if its broken shards had not been made yet."""
    details: dict[str, Any] = {name: value for name, value in manifest.details.items() if name != DIGESTS}
    plan = Plan(manifest.kind, manifest.parents, details)
    assembly = Assembly(folder, plan)
    for entry, rows in zip(manifest.shards, read_rows(folder, manifest), strict=True):
        if entry.name not in shards:
            assembly.announce(ShardRecord(entry, rows))
    write_json(folder / PROGRESS / PLAN_NAME, vars(plan))
    (folder / MANIFEST_NAME).unlink()  # last: until then the set counts as finished
    fsync_folder(folder)
    target, view = target_and_view(folder.absolute().parent.name)
    views = f" --views {view + 1}" if view else ""
    dtype = f" --dtype {manifest.details['dtype']}" if target in ("patches", "causal") else ""
    work, split = source_folder(folder, "images").parents[1], folder.absolute().name
    yield (
        f"{folder} is open again, because nothing tells the recipe that it was made by: run data_prep/encode.py --work "
        f"{work} --target {target} --split {split}{dtype}{views} --recipe RECIPE, and the shards "
        f"{', '.join(sorted(shards))} are made, the others kept"
    )
