"""index.parquet: where each sample's payload lies, its checksum and its caption. One row per sample, in shard order.

The manifest holds a digest of every column, so that an index of another set, or a damaged one, is noticed by the
columns that are used; captions of millions of samples are not loaded where nobody asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seed_dist.data.arrow_table import DAMAGE
from seed_dist.data.manifest import Manifest
from seed_dist.errors import DataError
from seed_dist.fsio import atomic_file

INDEX_NAME = "index.parquet"
DIGESTS = "index"  # the manifest's details hold the digests under this name

Rows = npt.NDArray[np.int64]

_GROUP_ROWS = 1 << 14

_SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("shard", pa.large_string()),
        ("offset", pa.int64()),  # of the payload in the tar, bytes
        ("size", pa.int64()),  # of the payload, bytes
        ("checksum", pa.uint32()),  # CRC-32 of the payload
        ("caption", pa.large_string()),
        ("ext", pa.large_string()),
        ("other_captions", pa.large_list(pa.large_string())),  # of the same image; empty where there is one caption
    ]
)


@dataclass(frozen=True)
class IndexRow:
    """One sample: `offset` and `size` of its payload (image or array) in bytes, CRC-32 of the payload.

    `other_captions` are those of the same image beside `caption`.
    """

    key: str
    offset: int
    size: int
    checksum: int
    caption: str
    ext: str
    other_captions: tuple[str, ...] = ()


def write_index(folder: Path, shards: Iterable[tuple[str, Sequence[IndexRow]]]) -> dict[str, str]:
    """Write the index of (shard name, rows) in shard order; the value is the digest of each column."""
    rows = ({**vars(row), "shard": name} for name, rows in shards for row in rows)
    write_rows(folder / INDEX_NAME, _SCHEMA, rows)
    return file_digests(folder / INDEX_NAME)


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """A parquet file of rows, few of which are in memory at a time."""
    iterator = iter(rows)
    options = {"compression": "zstd", "write_page_checksum": True}
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, **options) as writer:
        while part := list(islice(iterator, _GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            part.clear()  # before the next are collected


def file_digests(path: Path) -> dict[str, str]:
    """The digest of each column of a file that `write_rows` has written. Raises what is in DAMAGE."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return {name: _file_digest(file, name) for name in file.schema_arrow.names}


def read_rows(folder: Path, manifest: Manifest) -> Iterator[tuple[IndexRow, ...]]:
    """The rows of each shard of a finished set, in order."""
    with pq.ParquetFile(folder / INDEX_NAME) as file:
        rows = (row for batch in file.iter_batches(batch_size=_GROUP_ROWS) for row in batch.to_pylist())
        for entry in manifest.shards:
            yield tuple(_row(values) for values in islice(rows, entry.samples))


def _row(values: dict[str, Any]) -> IndexRow:
    own = {name: value for name, value in values.items() if name != "shard"}
    return IndexRow(**{**own, "other_captions": tuple(own["other_captions"])})


def _file_digest(file: pq.ParquetFile, name: str) -> str:
    """16 hex digits of a column's values, whatever its chunks and whichever library version wrote the file. Of all row
    groups one is in memory.
    """

    def chunks() -> Iterator[pa.Array]:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=[name]).column(0).chunks

    return _digest(file.schema_arrow.field(name).type, chunks)


def _digest(kind: pa.DataType, chunks: Callable[[], Iterable[pa.Array]]) -> str:
    """Of numbers: count and values. Of texts: count, lengths, characters. Of lists: lengths, and what is in them."""
    if pa.types.is_large_list(kind):
        lengths = _digest(pa.int64(), lambda: (pc.list_value_length(chunk) for chunk in chunks()))
        values = _digest(kind.value_type, lambda: (pc.list_flatten(chunk) for chunk in chunks()))
        return hashlib.sha256((lengths + values).encode()).hexdigest()[:16]
    if pa.types.is_string(kind):  # as earlier versions wrote texts
        return _digest(pa.large_string(), lambda: (chunk.cast(pa.large_string()) for chunk in chunks()))
    digest = hashlib.sha256(str(sum(len(chunk) for chunk in chunks())).encode())
    if not pa.types.is_large_string(kind):
        for chunk in chunks():
            digest.update(_numbers(chunk).tobytes())
        return digest.hexdigest()[:16]
    for chunk in chunks():
        digest.update(np.diff(_ends(chunk)).tobytes())
    for chunk in chunks():
        ends, text = _ends(chunk), chunk.buffers()[2]
        digest.update(memoryview(text)[ends[0] : ends[-1]] if text is not None else b"")
    return digest.hexdigest()[:16]


def _numbers(chunk: pa.Array) -> npt.NDArray[Any]:
    """As `to_numpy`, which imports pandas where there is one: 24 MiB and a quarter of a second of every rank."""
    return np.from_dlpack(chunk)


def _parts(file: pq.ParquetFile, name: str) -> Iterator[tuple[int, pa.Array]]:
    """A column piece by piece, each with the number of its first row."""
    first = 0
    for batch in file.iter_batches(batch_size=_GROUP_ROWS, columns=[name]):
        yield first, batch.column(0)
        first += len(batch)


def _ends(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Where each text begins in the buffer of characters, and where the last ends."""
    if not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


class Even:
    """Whole numbers [N] of the samples that rise evenly within each shard, as two numbers per shard.

    Looked up as in an array of int64: by a row, by an array of rows, by a slice.
    """

    def __init__(self, first_row: Rows, begins: Rows, steps: Rows) -> None:
        self._first_row, self._begins, self._steps = first_row, begins, steps

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(int(self._first_row[-1])))
        shard = np.searchsorted(self._first_row, rows, side="right") - 1
        return self._begins[shard] + (rows - self._first_row[shard]) * self._steps[shard]


class Index:
    """The index of a finished set, checked against its manifest column by column, at first use.

    Every process of a run holds one, so it is small: 4 bytes per sample where the payloads are of one size.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path, self._manifest = folder / INDEX_NAME, manifest
        # Rows come shard by shard, so the number of a row's shard follows from the counts; the digest vouches for
        # the names.
        counts = [entry.samples for entry in manifest.shards]
        self.first_row: Rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        shards = np.arange(len(counts))
        self.shard = Even(self.first_row, shards, np.zeros_like(shards))
        with self._opened(["shard", "offset", "size", "checksum"]) as file:
            self._check_count(file.metadata.num_rows)
            self.offset, self.size = (self._compact(file, name) for name in ("offset", "size"))
            self.checksum = np.empty(len(self), np.uint32)
            for first, values in _parts(file, "checksum"):
                self.checksum[first : first + len(values)] = _numbers(values)
            self._check_places(file)

    def __len__(self) -> int:
        return int(self.first_row[-1])

    @property
    def one_size(self) -> int | None:
        """The size of all payloads, bytes; None where they differ."""
        parts = range(0, len(self), _GROUP_ROWS)
        sizes = {int(size) for first in parts for size in np.unique(self.size[first : first + _GROUP_ROWS])}
        return sizes.pop() if len(sizes) == 1 else None

    @cached_property
    def keys(self) -> list[str]:
        return self._read(["key"])["key"].to_pylist()

    @cached_property
    def exts(self) -> list[str]:
        """The ending of every sample's payload: jpg, png, webp or npy."""
        return self._read(["ext"])["ext"].to_pylist()

    @cached_property
    def captions(self) -> list[str]:
        return self._read(["caption"])["caption"].to_pylist()

    @cached_property
    def all_captions(self) -> list[tuple[str, ...]]:
        """The captions of every sample, one at least; the first is that of `captions`."""
        others = self._read(["other_captions"])["other_captions"].to_pylist()
        return [(first, *more) for first, more in zip(self.captions, others, strict=True)]

    def _read(self, columns: list[str]) -> pa.Table:
        with self._opened(columns) as file:
            return file.read(columns=columns)

    @contextmanager
    def _opened(self, columns: list[str]) -> Iterator[pq.ParquetFile]:
        """The file, once these columns were found to be those of the manifest."""
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                for name in columns:
                    self._check_digest(file, name)
                yield file
        except FileNotFoundError:
            raise DataError(f"{self._path} is missing. {self._advice}") from None
        except DAMAGE as error:
            raise DataError(f"{self._path} cannot be read: {error}. {self._advice}") from error

    def _check_digest(self, file: pq.ParquetFile, name: str) -> None:
        found, expected = _file_digest(file, name), self._manifest.details[DIGESTS][name]
        if found != expected:
            raise DataError(
                f"{self._path}: column {name!r} has digest {found}, the manifest says {expected}. {self._advice}"
            )

    def _compact(self, file: pq.ParquetFile, name: str) -> Even | Rows:
        """A column of int64; as it is where it does not rise evenly."""
        begins, steps = np.zeros((2, len(self._manifest.shards)), np.int64)
        even = Even(self.first_row, begins, steps)
        for first, part in _parts(file, name):
            values, rows = _numbers(part), np.arange(first, first + len(part))
            shard = self.shard[rows]
            place = rows - self.first_row[shard]
            begins[shard[place == 0]] = values[place == 0]
            second = place == 1
            steps[shard[second]] = values[second] - begins[shard[second]]
            if (even[rows] != values).any():
                return np.concatenate([_numbers(part) for _, part in _parts(file, name)])
        return even

    def _check_count(self, rows: int) -> None:
        if not rows == len(self) == self._manifest.samples:
            raise DataError(
                f"{self._path} has {rows} rows and the manifest's shards {len(self)} samples, "
                f"but the manifest says {self._manifest.samples}. {self._advice}"
            )

    def _check_places(self, file: pq.ParquetFile) -> None:
        """The manifest agrees with the index: order of shards, and places inside the files."""
        sizes = np.array([entry.size_bytes for entry in self._manifest.shards], dtype=np.int64)
        firsts: list[str] = []
        for first, names in _parts(file, "shard"):
            rows = np.arange(first, first + len(names))
            begins, ends = self.offset[rows], self.offset[rows] + self.size[rows]
            if (begins < 0).any() or (ends < begins).any() or (ends > sizes[self.shard[rows]]).any():
                break
            begun = self.first_row[(self.first_row >= first) & (self.first_row < first + len(names))] - first
            firsts += [names[row].as_py() for row in begun.tolist()]
        if firsts != [entry.name for entry in self._manifest.shards]:
            raise DataError(f"{self._path} points outside the shards that the manifest lists. {self._advice}")

    @property
    def _advice(self) -> str:
        return f"Restore it from a copy, or delete {self._path.parent} and make it again."
