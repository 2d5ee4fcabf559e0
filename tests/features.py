"""Small feature sets for tests, written with the writer that real ones are written with."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.index import DIGESTS, IndexRow, write_index
from seed_dist.data.manifest import Manifest, write_manifest
from seed_dist.data.writer import npy_header, open_shard


def write_features(work: Path, split: str, target: str, values: npt.NDArray[Any], captions: Sequence[str]) -> None:
    """WORK/features/{target}/{split} with one shard that holds `values` [N, ...] and N captions."""
    folder = work / "features" / target / split
    folder.mkdir(parents=True)
    name = "shard-000000.tar"
    header, rows = npy_header(values.dtype, values.shape[1:]), []
    with open_shard(folder / name) as shard:
        for i, (value, caption) in enumerate(zip(values, captions, strict=True)):
            payload = header + np.ascontiguousarray(value).tobytes()
            place = shard.add(f"{i:08d}.npy", payload)
            rows.append(IndexRow(f"{i:08d}", place.offset, place.size, zlib.crc32(payload), caption, "npy"))
    digests = write_index(folder, [(name, rows)])
    details = {"dtype": str(values.dtype), "shape": list(values.shape[1:]), DIGESTS: digests}
    entry = shard.entry(len(values))
    write_manifest(folder, Manifest("features", len(values), (entry,), {"images": f"test images {split}"}, details))
