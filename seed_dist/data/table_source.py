"""Tables of images and captions: which columns they are in, and how rows become pairs.

Rows keep the order of the table. Rows that name the same image one after the other are one pair with several captions,
as Flickr30k's table has them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

from seed_dist.data.arrow_table import ARROW_SUFFIXES, arrow_table
from seed_dist.data.pairs import Cell, Pair, is_url, readable
from seed_dist.data.text_table import Row, Table, csv_table, json_lines_table, table_name
from seed_dist.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", *ARROW_SUFFIXES})
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "file", "path", "filepath", "img", "jpg", "png",
                 "webp", "image_bytes", "bytes")  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "txt", "description", "title", "prompt", "sentence", "captions", "ai_description",
                   "photo_description")  # fmt: skip
URL_COLUMNS = ("url", "image_url", "photo_image_url")
UNSPLASH_NAME = "{photo_id}.jpg"  # as Unsplash's own download scripts and most others name the pictures
_FETCH = "give --fetch, or fetch it first, for example with img2dataset, and give its output folder as SOURCE"


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None = the first known name that the table has.

    `image_name` makes the name of a row's picture from its columns and `row`, its number from 0: "{photo_id}.jpg".
    `splits` keeps the rows whose column `split` has one of these values (none: all rows). `at_least` holds (column,
    number): rows with less, or without a number, are left out and counted. With `fetch` a URL is where the picture is;
    without, its last part names a file that was fetched before.
    """

    image: str | None = None
    caption: str | None = None
    image_name: str | None = None
    split: str = "split"
    splits: tuple[str, ...] = ()
    at_least: tuple[tuple[str, float], ...] = ()
    fetch: bool = False


def suffix_of(path: Path) -> str:
    """The ending that tells a table's format: .tsv for photos.tsv000 too, as Unsplash numbers the parts of a table."""
    return re.sub(r"^(\.[ct]sv)\d+$", r"\1", path.suffix.lower())


def open_table(path: Path) -> Table:
    """A table in the format that its ending names."""
    suffix = suffix_of(path)
    if suffix in ARROW_SUFFIXES:
        return arrow_table(path)
    return json_lines_table(path) if suffix in (".jsonl", ".ndjson") else csv_table(path)


def table_pairs(table: Table, columns: Columns, root: Path) -> Iterator[Pair]:
    """Pairs of all rows, image paths relative to `root`. DataError where a column is missing."""
    rows = _Rows(table, columns, root)
    waiting: Pair | None = None
    for number, row in enumerate(table.rows(rows.names)):
        pair = rows.pair(number, row)
        if pair is None:
            continue
        if waiting is not None and _same_image(waiting, pair):
            waiting = replace(waiting, captions=waiting.captions + pair.captions)
            continue
        if waiting is not None:
            yield waiting
        waiting = pair
    if waiting is not None:
        yield waiting


def _same_image(first: Pair, second: Pair) -> bool:
    usable = first.problem is None and second.problem is None
    return usable and isinstance(first.image, str) and first.image == second.image


class _Rows:
    """What each row of one table means."""

    def __init__(self, table: Table, columns: Columns, root: Path) -> None:
        self._table, self._columns, self._root = table, columns, root
        known = table.columns
        self._caption = _pick(table.path, known, columns.caption, CAPTION_COLUMNS, "--caption-column")
        self._pattern = columns.image_name
        self._image = None if self._pattern else _image_column(table.path, known, columns)
        if self._image is None and self._pattern is None:
            self._pattern = UNSPLASH_NAME
        self._is_cell = self._image in table.image_cells
        self._status = "status" if {"status", "error_message"} <= set(known) else None  # img2dataset's
        wanted = [self._caption, *(name for name, _ in columns.at_least)]
        wanted += [] if self._image is None or self._is_cell else [self._image]
        wanted += _fields(self._pattern) if self._pattern else []
        wanted += [columns.split] if columns.splits else []
        wanted += [self._status, "error_message"] if self._status else []
        self.names = list(dict.fromkeys(wanted))
        for name in self.names:
            if name not in known:
                raise DataError(f"{table.path} has no column {name!r}; its columns are: {_listed(known)}.")

    def pair(self, number: int, row: Row) -> Pair | None:
        """The pair of a row, `number` from 0; None where it belongs to another split."""
        name = f"{table_name(self._table.path)}:{row.number}"
        if row.fault is not None:
            return Pair(name, None, problem=("malformed_row", row.fault))
        if not in_split(row.cells, self._columns):
            return None
        if self._status and (state := shown_text(row.cells[self._status])) != "success":
            return Pair(name, None, problem=("not_downloaded", f"{state}: {shown_text(row.cells['error_message'])}"))
        problem, captions = caption_bytes(row.cells.get(self._caption))
        problem = too_low(row.cells, self._columns) or problem
        if self._is_cell:
            assert self._image is not None, "a column of cells has a name"
            cell = Cell(str(self._table.path), self._image, row.number - 1, self._table.image_cells[self._image])
            return Pair(name, cell, captions, problem)
        value = _file_name(self._pattern, number, row.cells) if self._pattern else row.cells.get(self._image or "")
        if self._columns.fetch and is_url(text := shown_text(value)):
            return Pair(f"{name}: {readable(text)}", text, captions, problem)
        return path_pair(name, value, self._root, captions, problem)


def path_pair(
    name: str, value: Any, root: Path, captions: tuple[bytes, ...], problem: tuple[str, str] | None = None
) -> Pair:
    """The pair of a row that names its image by a path relative to `root`, or by the URL it was fetched from."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str) or not value.strip():
        return Pair(name, None, problem=("missing_image", f"the image column holds {_shown(value)}"))
    shown, local = f"{name}: {readable(value)}", value
    named_by_url = is_url(value)
    if named_by_url:
        local = _url_file(value)
    try:
        path = os.fsdecode(os.fsencode(root / local))
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape in JSON
        return Pair(shown, None, problem=("missing_image", "no file can have that name"))
    if named_by_url and (not local or "\0" in local or not Path(path).is_file()):
        detail = f"no file {readable(local)} in the folder of the images; {_FETCH}"
        return Pair(shown, None, problem=("not_downloaded", detail))
    return Pair(shown, path, captions, problem)


def _url_file(url: str) -> str:
    """The last part of a URL's path, as downloaders name the file."""
    try:
        return urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        return ""


def in_split(cells: Mapping[str, Any], columns: Columns) -> bool:
    """Whether a row belongs to one of the wanted splits."""
    return not columns.splits or shown_text(cells.get(columns.split)) in columns.splits


def too_low(cells: Mapping[str, Any], columns: Columns) -> tuple[str, str] | None:
    """The problem of a row whose scores (similarity of image and caption) are below what is wanted."""
    for column, least in columns.at_least:
        value = cells.get(column)
        try:
            number = float(shown_text(value))
        except ValueError:
            return "low_score", f"{column} is {_shown(value)}, not a number"
        if not number >= least:  # this way round NaN is left out too
            return "low_score", f"{column} is {number:g}, below {least:g}"
    return None


def caption_bytes(value: Any) -> tuple[tuple[str, str] | None, tuple[bytes, ...]]:
    """(problem, captions) of a cell with one or several; bytes that were no UTF-8 in the file stay as they were."""
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        return ("missing_caption", "the caption column is empty in this row"), ()
    if not all(isinstance(item, str | bytes) for item in values):
        return ("caption_not_text", f"the caption column holds {_shown(value)}"), ()
    return None, tuple(item if isinstance(item, bytes) else _raw(item) for item in values)


def _raw(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape in JSON
        return text.encode("utf-8", "surrogatepass")


def check_image_name(pattern: str) -> str | None:
    """What is wrong with --image-name; None where it is a pattern."""
    try:
        fields = _fields(pattern)
        pattern.format_map({**dict.fromkeys(fields, ""), "row": 0})
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        return f"--image-name is {pattern!r}: {error}; a file name with columns in braces is needed, as {UNSPLASH_NAME}"
    if "{" not in pattern:
        return f"--image-name is {pattern!r}; it names no column: give a name such as {UNSPLASH_NAME}"
    return None


def _fields(pattern: str) -> list[str]:
    """The columns that a pattern names; nothing but plain names, so that it cannot reach into anything."""
    fields = [field for _, field, _, _ in Formatter().parse(pattern) if field is not None]
    if odd := [field for field in fields if not re.fullmatch(r"\w+", field)]:
        raise ValueError(f"{odd[0]!r} is no name of a column")
    return [field for field in fields if field != "row"]


def _file_name(pattern: str, number: int, cells: Mapping[str, Any]) -> str:
    return pattern.format_map({**{name: shown_text(value) for name, value in cells.items()}, "row": number})


def shown_text(value: Any) -> str:
    """A cell as text."""
    return os.fsdecode(value) if isinstance(value, bytes) else "" if value is None else str(value)


def _image_column(table: Path, names: Sequence[str], columns: Columns) -> str | None:
    """The column of the image, or of its URL; None for Unsplash's tables, whose pictures are named by their ids."""
    if columns.image is None and not _first(names, IMAGE_COLUMNS):
        url = _first(names, URL_COLUMNS)
        if "photo_id" in names and not (columns.fetch and url):
            return None
        if url:
            return url
    return _pick(table, names, columns.image, IMAGE_COLUMNS, "--image-column")


def _pick(table: Path, names: Sequence[str], wanted: str | None, known: Sequence[str], option: str) -> str:
    if wanted is not None and wanted not in names:
        raise DataError(f"{option} is {wanted!r}, but the columns of {table} are: {_listed(names)}.")
    found = wanted or _first(names, known)
    if found is None:
        raise DataError(
            f"{table} has the columns {', '.join(names) or '(none)'}; none is among {', '.join(known)}. "
            f"Name the right one by {option}."
        )
    return found


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    by_lower_case = {name.lower(): name for name in names}
    return next((by_lower_case[name] for name in known if name in by_lower_case), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    text = value if isinstance(value, str | bytes) else json.dumps(value, default=str)
    return f"{type(value).__name__} {readable(shown_text(text)[:40])!r}"
