"""Tables of captions: CSV, TSV or JSON lines with an image path, or parquet with an image path or the image's bytes.

Rows keep the order of the table; several tables follow in order of name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from seed_dist.data.pairs import Cell, Digest, Listing, Pair, file_identity, readable
from seed_dist.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "file", "path", "filepath", "img", "jpg", "png",
                 "webp", "image_bytes", "bytes")  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "txt", "description", "title", "prompt", "sentence", "captions")
_CSV_FIELD_BYTES = 1 << 24  # a quote that is never closed would otherwise swallow the rest of the file unnoticed


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None = the first known name that the table has."""

    image: str | None = None
    caption: str | None = None


class _Row(NamedTuple):
    """`number` as an editor shows it, from 1; cells as found; `fault` where the line is no row of the table."""

    number: int
    image: Any
    caption: Any
    fault: str | None = None


def list_tables(tables: Sequence[Path], columns: Columns, root: Path) -> Listing:
    """Pairs of all rows of all `tables`, image paths relative to `root`.

    Raises DataError for a table that cannot be read or lacks a column.
    """
    pairs, digest = [], Digest()
    for table in tables:
        in_parquet = table.suffix.lower() == ".parquet"
        whole = file_identity(table).encode()
        for pair in _parquet_pairs(table, columns) if in_parquet else _text_pairs(table, columns):
            image = file_identity(root / pair.image).encode() if isinstance(pair.image, str) else whole
            digest.add(pair.name.encode(), image, pair.caption, repr(pair.problem).encode())
            pairs.append(pair)
    return Listing(tables[0].suffix.lower().removeprefix("."), pairs, digest.value)


def _text_pairs(table: Path, columns: Columns) -> Iterator[Pair]:
    rows = _json_rows(table, columns) if table.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(table, columns)
    for row in rows:
        yield _pair(f"{table.name}:{row.number}", row)


def _pair(name: str, row: _Row) -> Pair:
    if row.fault is not None:
        return Pair(name, None, problem=("malformed_row", row.fault))
    if not isinstance(row.image, str) or not row.image.strip():
        return Pair(name, None, problem=("missing_image", f"the image column holds {_shown(row.image)}"))
    problem, raw = _caption_bytes(row.caption)
    return Pair(f"{name}: {readable(row.image)}", row.image, raw, problem)


def _caption_bytes(value: Any) -> tuple[tuple[str, str] | None, bytes]:
    """(problem, raw bytes) of a caption cell; bytes that were no UTF-8 in the file come back as they were."""
    if value is None:
        return ("missing_caption", "the caption column is empty in this row"), b""
    if isinstance(value, bytes):
        return None, value
    if not isinstance(value, str):
        return ("caption_not_text", f"the caption column holds {_shown(value)}"), b""
    try:
        return None, value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape in JSON
        return None, value.encode("utf-8", "surrogatepass")


def _csv_rows(table: Path, columns: Columns) -> Iterator[_Row]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(_CSV_FIELD_BYTES)
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader((line.replace("\0", " ") for line in file), delimiter=delimiter)
        try:
            header = next(reader, [])
            image, caption = (header.index(name) for name in pick_columns(table, header, columns))
            for row in reader:
                if len(row) == len(header):
                    yield _Row(reader.line_num, row[image], row[caption])
                elif row:  # most often a caption with a comma and no quotes, whose end would be lost
                    yield _Row(reader.line_num, None, None, f"{len(row)} cells, but the header has {len(header)}")
        except csv.Error as error:
            raise DataError(
                f"{table}, line {reader.line_num} is not {table.suffix[1:].upper()}: {error}. "
                "Write the table again with quoted fields, or as JSON lines."
            ) from error


def _json_rows(table: Path, columns: Columns) -> Iterator[_Row]:
    names: tuple[str, str] | None = None
    with table.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield _Row(number, None, None, f"no JSON: {error}")
                continue
            if not isinstance(row, dict):
                yield _Row(number, None, None, f"{type(row).__name__}, but a JSON object is needed")
                continue
            names = names or pick_columns(table, list(row), columns)
            yield _Row(number, row.get(names[0]), row.get(names[1]))


def _parquet_pairs(table: Path, columns: Columns) -> Iterator[Pair]:
    try:
        with pq.ParquetFile(table) as file:
            yield from _parquet_file_pairs(table, file, columns)
    except pa.ArrowException as error:
        raise DataError(f"{table} cannot be read as parquet: {error}. Replace the file or leave it out.") from error


def _parquet_file_pairs(table: Path, file: pq.ParquetFile, columns: Columns) -> Iterator[Pair]:
    schema = file.schema_arrow
    image, caption = pick_columns(table, schema.names, columns)
    kind, number = schema.field(image).type, 0
    as_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
    if pa.types.is_struct(kind) and "bytes" not in [field.name for field in kind]:
        raise DataError(f"{table}: column {image!r} is {kind}; image bytes or a path are needed. Give --image-column.")
    member = "bytes" if pa.types.is_struct(kind) else None
    for batch in file.iter_batches(columns=[caption] if as_bytes else [image, caption]):
        images = [None] * len(batch) if as_bytes else batch.column(image).to_pylist()
        for path, value in zip(images, _raw_texts(batch.column(caption)), strict=True):
            number += 1
            name = f"{table.name}:{number}"
            if as_bytes:
                problem, raw = _caption_bytes(value)
                yield Pair(name, Cell(str(table), image, number - 1, member), raw, problem)
            else:
                yield _pair(name, _Row(number, path, value))


def _raw_texts(column: pa.Array) -> list[Any]:
    """Captions as bytes: a text column may hold anything, and decoding it all at once would fail on one bad row."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    return column.to_pylist()


def pick_columns(table: Path, names: Sequence[str], columns: Columns) -> tuple[str, str]:
    """(image column, caption column) of a table with these column names."""
    image = _pick(table, names, columns.image, IMAGE_COLUMNS, "--image-column")
    return image, _pick(table, names, columns.caption, CAPTION_COLUMNS, "--caption-column")


def _pick(table: Path, names: Sequence[str], wanted: str | None, known: Sequence[str], option: str) -> str:
    if wanted is not None and wanted not in names:
        raise DataError(f"{option} is {wanted!r}, but the columns of {table} are: {', '.join(names) or 'none'}.")
    by_lower_case = {name.lower(): name for name in names}
    found = wanted or next((by_lower_case[name] for name in known if name in by_lower_case), None)
    if found is None:
        raise DataError(
            f"{table} has the columns {', '.join(names) or '(none)'}; none is among {', '.join(known)}. "
            f"Name the right one by {option}."
        )
    return found


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else f"{type(value).__name__} {str(value)[:40]!r}"
