"""Image bytes out of larger files: cells of parquet and Arrow tables, spans of tars. Little of each is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from seed_dist.data.arrow_table import arrow_batches, open_arrow
from seed_dist.data.pairs import Cell, Span


class CellReader:
    """Reads cells and spans; fast where they ascend within a file, as the pairs of a listing do."""

    def __init__(self) -> None:
        self._open: _ParquetColumn | _ArrowColumn | None = None
        self._place: tuple[str, str] = ("", "")

    def read(self, place: Cell | Span) -> bytes | None:
        """The bytes of a place; None where the cell is empty. A span of a file that was cut gives fewer bytes."""
        if isinstance(place, Span):
            with Path(place.file).open("rb") as file:
                file.seek(place.offset)
                return file.read(place.size)
        value = self._column(place).read(place.row)
        return value[place.member] if place.member and value is not None else value

    def _column(self, cell: Cell) -> _ParquetColumn | _ArrowColumn:
        if self._open is None or self._place != (cell.file, cell.column):
            if self._open is not None:
                self._open.close()
            is_parquet = cell.file.lower().endswith(".parquet")
            self._open = (_ParquetColumn if is_parquet else _ArrowColumn)(cell.file, cell.column)
            self._place = (cell.file, cell.column)
        return self._open


class _ParquetColumn:
    """One row group of one column in memory at a time."""

    def __init__(self, name: str, column: str) -> None:
        self._file, self._column = pq.ParquetFile(name), column
        groups = self._file.metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        self._starts: npt.NDArray[np.int64] = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._group, self._values = -1, None

    def read(self, row: int) -> Any:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group:
            self._group, self._values = group, self._file.read_row_group(group, columns=[self._column]).column(0)
        values: Any = self._values
        return values[row - int(self._starts[group])].as_py()

    def close(self) -> None:
        self._file.close()


class _ArrowColumn:
    """Record batches are passed through from the first: a memory map makes skipping them cheap."""

    def __init__(self, name: str, column: str) -> None:
        self._name, self._column = name, column
        self._first = self._rows = 0  # of the batch at hand
        self._values: Any = None
        self._stack = ExitStack()
        self._rewind()

    def read(self, row: int) -> Any:
        if row < self._first:
            self.close()
            self._rewind()
        while row >= self._first + self._rows:
            self._first += self._rows
            batch = next(self._batches)
            self._values, self._rows = batch.column(self._column), len(batch)
        return self._values[row - self._first].as_py()

    def close(self) -> None:
        self._stack.close()

    def _rewind(self) -> None:
        reader = self._stack.enter_context(open_arrow(Path(self._name)))
        self._batches: Iterator[Any] = arrow_batches(reader)
        self._first = self._rows = 0
