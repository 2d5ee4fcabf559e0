"""index.parquet: where each sample's payload lies, its checksum and its caption. One row per sample, in shard order.

The manifest holds a digest of every column, so that an index of another set, or a damaged one, is noticed by the
columns that are used; captions of millions of samples are not loaded where nobody asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def column_digest(column: pa.ChunkedArray) -> str:
    """16 hex digits of a column's values, whatever its chunks and whichever library version wrote the file."""
    return _digest(column.type, lambda: column.chunks)


def _file_digest(file: pq.ParquetFile, name: str) -> str:
    """`column_digest` of a column of a file, one row group in memory at a time."""

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
    digest = hashlib.sha256(str(sum(len(chunk) for chunk in chunks())).encode())
    if not pa.types.is_large_string(kind):
        for chunk in chunks():
            digest.update(np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).tobytes())
        return digest.hexdigest()[:16]
    for chunk in chunks():
        digest.update(np.diff(_ends(chunk)).tobytes())
    for chunk in chunks():
        ends, text = _ends(chunk), chunk.buffers()[2]
        digest.update(memoryview(text)[ends[0] : ends[-1]] if text is not None else b"")
    return digest.hexdigest()[:16]


def _ends(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Where each text begins in the buffer of characters, and where the last ends."""
    if not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


class Index:
    """The index of a finished set, checked against its manifest column by column, at first use."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path, self._manifest = folder / INDEX_NAME, manifest
        placed = self._read(["shard", "offset", "size", "checksum"])
        names = [entry.name for entry in manifest.shards]
        # Rows come shard by shard, so the number of a row's shard follows from the counts; the digest vouches for
        # the names.
        counts = [entry.samples for entry in manifest.shards]
        self.shard: npt.NDArray[np.int32] = np.repeat(np.arange(len(names), dtype=np.int32), counts)
        self.first_row: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.offset: npt.NDArray[np.int64] = placed["offset"].to_numpy()
        self.size: npt.NDArray[np.int64] = placed["size"].to_numpy()
        self.checksum: npt.NDArray[np.uint32] = placed["checksum"].to_numpy()
        self._check_places(placed["shard"], names)

    def __len__(self) -> int:
        return len(self.shard)

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

    def _read(self, columns: list[str]) -> dict[str, pa.ChunkedArray]:
        try:
            table = pq.read_table(self._path, columns=columns, page_checksum_verification=True)
        except FileNotFoundError:
            raise DataError(f"{self._path} is missing. {self._advice}") from None
        except DAMAGE as error:
            raise DataError(f"{self._path} cannot be read: {error}. {self._advice}") from error
        for name in columns:
            found, expected = column_digest(table[name]), self._manifest.details[DIGESTS][name]
            if found != expected:
                raise DataError(
                    f"{self._path}: column {name!r} has digest {found}, the manifest says {expected}. {self._advice}"
                )
        return {name: table[name] for name in columns}

    def _check_places(self, shard_names: pa.ChunkedArray, names: list[str]) -> None:
        """The manifest agrees with the index: counts, order of shards, and places inside the files."""
        if len(shard_names) != self._manifest.samples or len(self.shard) != self._manifest.samples:
            raise DataError(
                f"{self._path} has {len(shard_names)} rows and the manifest's shards {len(self.shard)} samples, "
                f"but the manifest says {self._manifest.samples}. {self._advice}"
            )
        sizes = np.array([entry.size_bytes for entry in self._manifest.shards], dtype=np.int64)
        outside = (self.offset < 0) | (self.size < 0) | (self.offset + self.size > sizes[self.shard])
        firsts = [shard_names[int(row)].as_py() for row in self.first_row[:-1]]
        if outside.any() or firsts != names:
            raise DataError(f"{self._path} points outside the shards that the manifest lists. {self._advice}")

    @property
    def _advice(self) -> str:
        return f"Restore it from a copy, or delete {self._path.parent} and make it again."
