"""CSV, TSV, JSON lines and JSON lists as rows of cells. Every line is accounted for, and none may be endless."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from seed_dist.data.pairs import readable
from seed_dist.errors import DataError

MAX_LINE_CHARACTERS = 1 << 24  # a quote or line that never ends would otherwise take the rest of the file with it
MAX_DOCUMENT_BYTES = 1 << 30  # a JSON document is read as a whole and takes several times its size in memory


@dataclass(frozen=True)
class Row:
    """`number` as an editor shows it, from 1; `fault` where the line is no row of the table."""

    number: int
    cells: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Table:
    """An opened table. `rows` reads the columns that it is given; `image_cells` are the columns that hold image bytes,
    with the field that they are in where the column is a struct."""

    path: Path
    columns: list[str]
    rows: Callable[[Sequence[str]], Iterator[Row]]
    image_cells: dict[str, str | None] = field(default_factory=dict)


def csv_table(path: Path) -> Table:
    """A table with a header; or Conceptual Captions' TSV without: caption, tab, URL, where quotes mean nothing."""
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    with _open(path) as file:
        first = file.readline(MAX_LINE_CHARACTERS).rstrip("\r\n").split("\t")
    if delimiter == "\t" and len(first) == 2 and first[1].startswith(("http://", "https://")):
        names = ["caption", "url"]
        return Table(path, names, lambda _: _csv_rows(path, names, csv.QUOTE_NONE, delimiter))
    with _open(path) as file:
        names = next(_reader(path, file, csv.QUOTE_MINIMAL, delimiter), [])
    return Table(path, names, lambda _: _csv_rows(path, None, csv.QUOTE_MINIMAL, delimiter))


def _csv_rows(path: Path, names: list[str] | None, quoting: int, delimiter: str) -> Iterator[Row]:
    with _open(path) as file:
        reader = _reader(path, file, quoting, delimiter)
        names = names or next(reader, [])
        before = reader.line_num
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{path}, line {reader.line_num} is not {path.suffix[1:4].upper()}: {error}. "
                    "Write the table again with quoted fields, or as JSON lines."
                ) from error
            if len(cells) == len(names):
                yield Row(reader.line_num, dict(zip(names, cells, strict=True)))
            elif cells:  # most often a caption with a comma and no quotes, whose end would be lost
                lines = reader.line_num - before
                more = f", in {lines} lines (a quote that is not closed?)" if lines > 1 else ""
                fault = f"{len(cells)} cells, but the header has {len(names)}{more}"
                yield Row(reader.line_num, fault=fault)
            before = reader.line_num


def _reader(path: Path, file: IO[str], quoting: int, delimiter: str) -> Any:
    csv.field_size_limit(MAX_LINE_CHARACTERS)
    return csv.reader(_bounded_lines(path, file), delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]


def _bounded_lines(path: Path, file: IO[str]) -> Iterator[str]:
    for number, line in _lines(file):
        if line is None:
            raise DataError(f"{path}, line {number} has more than {MAX_LINE_CHARACTERS} characters: it is no table.")
        yield line.replace("\0", " ")


def json_lines_table(path: Path) -> Table:
    """One JSON object per line; the columns are those of the first."""
    names = next((list(row.cells) for row in _json_rows(path) if row.fault is None), [])
    return Table(path, names, lambda _: _json_rows(path))


def _json_rows(path: Path) -> Iterator[Row]:
    with _open(path, "\n") as file:
        for number, line in _lines(file):
            if line is None:
                yield Row(number, fault=f"more than {MAX_LINE_CHARACTERS} characters")
            elif line.strip():
                yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(number, fault=f"no JSON: {error}")
    if not isinstance(value, dict):
        return Row(number, fault=f"{type(value).__name__}, but a JSON object is needed")
    return Row(number, value)


def json_list_table(path: Path, values: list[Any]) -> Table:
    """A JSON document that is a list of objects; rows are numbered by their place in it."""
    names = next((list(value) for value in values if isinstance(value, dict)), [])
    return Table(path, names, lambda _: _list_rows(values))


def _list_rows(values: list[Any]) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        is_row = isinstance(value, dict)
        yield Row(number, value) if is_row else Row(number, fault=f"{type(value).__name__}, not an object")


def read_document(path: Path) -> Any:
    """The value of a JSON document. DataError where it is none, or too large to be read as a whole."""
    size = path.stat().st_size
    if size > MAX_DOCUMENT_BYTES:
        raise DataError(
            f"{path} has {size} bytes; a JSON document may have {MAX_DOCUMENT_BYTES}. Write it as JSON lines (.jsonl)."
        )
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON document: {error}. Mend it, or give JSON lines as .jsonl.") from error


def table_name(path: Path) -> str:
    """The file's name, for the names of its pairs."""
    return readable(path.name)


def _open(path: Path, newline: str = "") -> IO[str]:
    """Bytes that are no UTF-8 stay recognisable (surrogateescape) and are judged caption by caption."""
    return path.open(newline=newline, encoding="utf-8-sig", errors="surrogateescape")


def _lines(file: IO[str]) -> Iterator[tuple[int, str | None]]:
    """(number from 1, line); None instead of a line that is too long, of which nothing is kept."""
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS):
        number += 1
        if len(line) < MAX_LINE_CHARACTERS or line.endswith("\n"):
            yield number, line
            continue
        while (rest := file.readline(MAX_LINE_CHARACTERS)) and not rest.endswith("\n"):
            pass
        yield number, None
