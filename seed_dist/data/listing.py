"""The pairs of a source, written down once: workers read their slice, and memory does not grow with the source.

An Arrow file with one record batch per slice; slice `n` becomes shard `n`. Each slice has a fingerprint of its own, so
that a source that grew or was mended is sharded anew only where it changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from seed_dist.data.pairs import Cell, Digest, Pair, Source, Span, file_identity, is_url
from seed_dist.data.patience import HungError, Lane, Patience, Task
from seed_dist.fsio import atomic_file, write_json

_NOTE = "listing.json"
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("file", pa.binary()),  # null: no image
        ("column", pa.string()),  # of a cell
        ("member", pa.string()),
        ("start", pa.int64()),  # row of a cell, offset of a span
        ("size", pa.int64()),  # of a span
        ("captions", pa.list_(pa.binary())),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class Listing:
    """A written listing. `fingerprint` changes with any name, caption or image file (see `file_identity`).

    `slices` holds a fingerprint per slice of `slice_pairs` pairs; the last slice may be shorter.
    """

    path: Path
    kind: str
    pairs: int
    slice_pairs: int
    slices: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        digest = Digest()
        digest.add(*(part.encode() for part in self.slices))
        return digest.value


def write_listing(
    path: Path, source: Source, pairs: Iterable[Pair], slice_pairs: int, patience: Patience | None = None
) -> Listing:
    """Write `pairs` of `source` to `path`, `slice_pairs` at a time. DataError where one file after the other hangs."""
    slices, count, iterator = [], 0, iter(pairs)
    patience = patience or Patience()
    options = pa.ipc.IpcWriteOptions(compression="zstd")  # the pairs of a slice name nearly the same paths
    with (
        Lane(patience.timeout_s, patience.retries) as lane,
        atomic_file(path) as file,
        pa.ipc.new_file(file, _SCHEMA, options=options) as writer,
    ):
        identities = _Identities(lane)
        while part := list(islice(iterator, slice_pairs)):
            digest = Digest()
            for pair, identity in zip(part, identities.of(part), strict=True):
                captions = (b"=" + caption for caption in pair.captions)
                digest.add(pair.name.encode(), identity, repr(pair.problem).encode(), *captions)
            writer.write_batch(pa.RecordBatch.from_pylist([_row(pair) for pair in part], schema=_SCHEMA))
            slices.append(digest.value)
            count += len(part)
    return Listing(path, source.kind, count, slice_pairs, tuple(slices))


def save_listing(folder: Path, listing: Listing) -> None:
    """Note in `folder`, where the listing's file is, what the listing is, for other processes."""
    write_json(folder / _NOTE, {**asdict(listing), "path": listing.path.name})


def load_listing(folder: Path) -> Listing:
    """What `save_listing` noted."""
    values = json.loads((folder / _NOTE).read_bytes())
    return Listing(**{**values, "path": folder / values["path"], "slices": tuple(values["slices"])})


def read_slice(path: Path, number: int) -> list[Pair]:
    """The pairs of slice `number`, from 0."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        return [_pair(row) for row in reader.get_batch(number).to_pylist()]


class _Identities:
    """Identity of each pair's image; that of a large file is asked for once, since its pairs follow one another."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._file, self._identity = lane, "", b""

    def of(self, pairs: Sequence[Pair]) -> Iterator[bytes]:
        """One per pair. DataError where one file after the other hangs."""
        files, before = [_file(pair) for pair in pairs], self._file
        asked: list[Task[str] | None] = []
        for file in files:
            is_new = file not in ("", before)
            asked.append(self._lane.submit(file, partial(file_identity, Path(file))) if is_new else None)
            before = file or before
        for pair, file, task in zip(pairs, files, asked, strict=True):
            if task is not None:
                self._file, self._identity = file, self._answer(task)
            yield (self._identity if file else b"") + _place(pair)

    def _answer(self, task: Task[str]) -> bytes:
        try:
            return self._lane.result(task).encode()
        except HungError:
            return b"no answer"


def _file(pair: Pair) -> str:
    """The file that a pair's image is, or is in; empty for a URL."""
    if pair.problem is not None or pair.image is None or is_url(pair.image):
        return ""
    return pair.image if isinstance(pair.image, str) else pair.image.file


def _place(pair: Pair) -> bytes:
    """Where in that file; or the URL."""
    image = pair.image
    if pair.problem is not None or image is None:
        return b""
    if isinstance(image, str):
        return image.encode() if is_url(image) else b""
    if isinstance(image, Cell):
        return repr((image.column, image.row, image.member)).encode()
    return repr((image.offset, image.size)).encode()


def _row(pair: Pair) -> dict[str, Any]:
    image, problem = pair.image, pair.problem or (None, None)
    row: dict[str, Any] = {"name": pair.name, "captions": pair.captions, "reason": problem[0], "detail": problem[1]}
    if isinstance(image, str):
        return {**row, "file": os.fsencode(image)}
    if isinstance(image, Cell):
        place = {"column": image.column, "member": image.member, "start": image.row}
        return {**row, "file": os.fsencode(image.file), **place}
    if isinstance(image, Span):
        return {**row, "file": os.fsencode(image.file), "start": image.offset, "size": image.size}
    return row


def _pair(row: dict[str, Any]) -> Pair:
    file = None if row["file"] is None else os.fsdecode(row["file"])
    image: str | Cell | Span | None = file
    if file is not None and row["column"] is not None:
        image = Cell(file, row["column"], row["start"], row["member"])
    elif file is not None and row["size"] is not None:
        image = Span(file, row["start"], row["size"])
    problem = None if row["reason"] is None else (row["reason"], row["detail"])
    return Pair(row["name"], image, tuple(row["captions"]), problem)
