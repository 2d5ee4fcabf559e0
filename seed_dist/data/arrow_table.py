"""Parquet and Arrow files as rows of cells, without the images' bytes: these are read when their shard is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seed_dist.data.text_table import Row, Table
from seed_dist.errors import DataError

ARROW_SUFFIXES = frozenset({".parquet", ".arrow", ".feather"})
_BATCH_ROWS = 1024
# What pyarrow raises for damaged files: names in them that are not UTF-8 are a ValueError, lost columns a KeyError.
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)


def arrow_table(path: Path) -> Table:
    """DataError for a file that is none of these formats, or damaged."""
    with _readable(path):
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
        else:
            with open_arrow(path) as reader:
                schema = reader.schema
    return Table(path, schema.names, lambda columns: _rows(path, list(columns)), _image_cells(schema))


def _image_cells(schema: pa.Schema) -> dict[str, str | None]:
    """Columns of bytes, and of structs with a field `bytes` as Hugging Face's datasets have them."""
    cells: dict[str, str | None] = {}
    for column in schema:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            cells[column.name] = None
        elif pa.types.is_struct(column.type) and "bytes" in [part.name for part in column.type]:
            cells[column.name] = "bytes"
    return cells


def _rows(path: Path, columns: list[str]) -> Iterator[Row]:
    number = 0
    with _readable(path):
        for batch in _batches(path, columns):
            values = [_values(batch.column(name)) for name in columns]
            for cells in zip(*values, strict=True) if values else ((),) * len(batch):
                number += 1
                yield Row(number, dict(zip(columns, cells, strict=True)))


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
        return
    with open_arrow(path) as reader:
        for batch in arrow_batches(reader):
            yield batch.select(columns)


@contextmanager
def open_arrow(path: Path) -> Iterator[Any]:
    """A reader of the file format (feather, too) or of the stream format; Hugging Face's datasets write the latter."""
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            reader = pa.ipc.open_stream(file)
        with reader:
            yield reader


def arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    """The record batches in order, of either format; those of an uncompressed file take no memory."""
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader


def _values(column: pa.Array) -> list[Any]:
    """Cells as Python values, text as bytes: a column may hold anything, and decoding it would fail on one bad row."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string(kind):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(kind):
        column = column.cast(pa.large_binary())
    elif (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        column = column.cast(pa.list_(pa.binary()) if pa.types.is_list(kind) else pa.large_list(pa.binary()))
    return column.to_pylist()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        form = path.suffix[1:].lower()
        raise DataError(f"{path} cannot be read as {form}: {error}. Replace the file or leave it out.") from error
