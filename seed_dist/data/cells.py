"""Image bytes out of parquet files, one row group in memory at a time."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from seed_dist.data.pairs import Cell


class CellReader:
    """Reads cells in ascending order of row without reading a row group twice. Use as a context."""

    def __init__(self) -> None:
        self._name = ""
        self._file: pq.ParquetFile | None = None
        self._starts: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._group, self._column = -1, None

    def __enter__(self) -> CellReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, cell: Cell) -> bytes | None:
        """The bytes of a cell; None where it is empty."""
        file = self._open(cell.file)
        group = int(np.searchsorted(self._starts, cell.row, side="right")) - 1
        if group != self._group:
            self._group, self._column = group, file.read_row_group(group, columns=[cell.column]).column(0)
        column: Any = self._column
        value = column[cell.row - int(self._starts[group])].as_py()
        return value[cell.member] if cell.member and value is not None else value

    def _open(self, name: str) -> pq.ParquetFile:
        if self._file is None or name != self._name:
            if self._file is not None:
                self._file.close()
            self._file, self._name, self._group = pq.ParquetFile(name), name, -1
            groups = self._file.metadata
            sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
            self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        return self._file
