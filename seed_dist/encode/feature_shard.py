"""Writes one shard of features while its batches come in; samples without usable features are set aside by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from seed_dist.data.assembly import ShardRecord
from seed_dist.data.index import IndexRow
from seed_dist.data.precision import finite_rows, stored_layout
from seed_dist.data.reject_list import Reject
from seed_dist.data.writer import TarFile, npy_header, open_shard
from seed_dist.encode.attempts import Fault
from seed_dist.encode.batches import Batch


class FeatureShard:
    """An open shard: arrays are appended as KEY.npy members.

    Every sample of the source gets its member, so that row i means the same sample in all targets; where there is
    nothing good to store, it is zeros, and `rejects` names it.
    """

    def __init__(self, shard: TarFile, dtype: str, shape: tuple[int, ...]) -> None:
        self._shard, self._dtype = shard, dtype
        self._layout = stored_layout(dtype, shape)
        self._header = npy_header(*self._layout)
        self._rows: list[IndexRow] = []
        self.rejects: list[Reject] = []

    def add(self, batch: Batch, values: npt.NDArray[Any], faults: Mapping[int, Fault]) -> None:
        """Append the stored features [B, ...] of a batch; `faults` are the places where its encoder failed."""
        dtype, shape = self._layout
        assert values.dtype == dtype, f"{values.dtype}, not {dtype}"
        assert values.shape == (len(batch.keys), *shape), f"{values.shape}, not [B, {shape}]"
        found = self._faults(batch, values) | dict(faults)
        if found:
            values = values.copy()
            values[sorted(found)] = 0
        for place, fault in sorted(found.items()):
            self.rejects.append(
                Reject(batch.keys[place], fault.reason, f"{batch.captions[place][:80]!r}: {fault.detail}")
            )
        rows = zip(batch.keys, batch.captions, batch.other_captions, values, strict=True)
        for key, caption, others, value in rows:
            spot = self._shard.add(f"{key}.npy", self._header + value.tobytes())
            self._rows.append(IndexRow(key, spot.offset, spot.size, spot.checksum, caption, "npy", others))

    def record(self) -> ShardRecord:
        """What the index and the manifest say of the finished shard."""
        return ShardRecord(self._shard.entry(len(self._rows)), tuple(self._rows), tuple(self.rejects))

    def _faults(self, batch: Batch, values: npt.NDArray[Any]) -> dict[int, Fault]:
        bad = (~finite_rows(values, self._dtype)).nonzero()[0]
        faults = {int(place): Fault("not_finite", f"NaN or infinite values in {self._dtype}") for place in bad}
        source = Fault("source_quarantined", "the features that these are made from were set aside")
        return faults | dict.fromkeys(batch.left_out, source)


@contextmanager
def open_feature_shard(path: Path, details: Mapping[str, Any]) -> Iterator[FeatureShard]:
    """A shard of arrays of `details["dtype"]` and `details["shape"]`; on disk only when the block ends well."""
    with open_shard(path) as shard:
        yield FeatureShard(shard, str(details["dtype"]), tuple(details["shape"]))
