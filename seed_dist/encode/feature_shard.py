"""Writes one shard of features while its batches come in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.assembly import ShardRecord
from seed_dist.data.index import IndexRow
from seed_dist.data.writer import TarFile, npy_header, open_shard
from seed_dist.encode.batches import Batch
from seed_dist.errors import DataError


class FeatureShard:
    """An open shard: arrays are appended as KEY.npy members."""

    def __init__(self, shard: TarFile, folder: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._shard, self._folder, self._dtype, self._shape = shard, folder, np.dtype(dtype), shape
        self._header = npy_header(self._dtype, shape)
        self._rows: list[IndexRow] = []

    def add(self, batch: Batch, values: npt.NDArray[Any]) -> None:
        """Append the features [B, *shape] of a batch. DataError names a sample with NaN or infinite values."""
        assert values.dtype == self._dtype, f"{values.dtype}, not {self._dtype}"
        assert values.shape == (len(batch.keys), *self._shape), f"{values.shape}, not [B, {self._shape}]"
        self._require_finite(batch, values)
        rows = zip(batch.keys, batch.captions, batch.other_captions, values, strict=True)
        for key, caption, others, value in rows:
            place = self._shard.add(f"{key}.npy", self._header + value.tobytes())
            self._rows.append(IndexRow(key, place.offset, place.size, place.checksum, caption, "npy", others))

    def record(self) -> ShardRecord:
        """What the index and the manifest say of the finished shard."""
        return ShardRecord(self._shard.entry(len(self._rows)), tuple(self._rows))

    def _require_finite(self, batch: Batch, values: npt.NDArray[Any]) -> None:
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            key, caption = batch.keys[int(bad.argmax())], batch.captions[int(bad.argmax())]
            raise DataError(
                f"features for {self._folder} of sample {key} ({caption[:80]!r}) hold NaN or infinite values in "
                f"{self._dtype}. Look at that image and at the encoder's weights; without the sample, shard anew."
            )


@contextmanager
def open_feature_shard(path: Path, details: dict[str, Any]) -> Iterator[FeatureShard]:
    """A shard of arrays of `details["dtype"]` and `details["shape"]`; on disk only when the block ends well."""
    with open_shard(path) as shard:
        yield FeatureShard(shard, path.parent, str(details["dtype"]), tuple(details["shape"]))
