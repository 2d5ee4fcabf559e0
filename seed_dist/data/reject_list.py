"""rejects.parquet: what a set leaves out, and why. The manifest holds a digest of every column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seed_dist.data.arrow_table import DAMAGE
from seed_dist.data.index import file_digests, write_rows
from seed_dist.data.manifest import Manifest

REJECTS_NAME = "rejects.parquet"
REJECT_DIGESTS = "reject_list"  # the manifest's details hold the digests of the columns under this name
_REJECT_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("source", "reason", "detail", "shard")])
_READ_ROWS = 1 << 12


@dataclass(frozen=True)
class Reject:
    """A pair that is left out: its name in the source, the kind of fault, and what was found."""

    source: str
    reason: str
    detail: str


def write_reject_list(folder: Path, shards: Iterable[tuple[str, Sequence[Reject]]]) -> Counter[str]:
    """rejects.parquet of (shard, rejects); the value counts them by reason."""
    counts: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, str]]:
        for shard, rejects in shards:
            counts.update(reject.reason for reject in rejects)
            yield from ({**vars(reject), "shard": shard} for reject in rejects)

    write_rows(folder / REJECTS_NAME, _REJECT_SCHEMA, rows())
    return counts


def read_reject_list(folder: Path) -> Iterator[tuple[str, Reject]]:
    """(shard, reject) of a finished set, few of which are in memory at a time."""
    with pq.ParquetFile(folder / REJECTS_NAME) as file:
        for batch in file.iter_batches(batch_size=_READ_ROWS):
            for values in batch.to_pylist():
                yield values.pop("shard"), Reject(**values)


def reject_details(folder: Path) -> dict[str, Any]:
    """The digests for the manifest's details; nothing where nothing was left out."""
    path = folder / REJECTS_NAME
    if not path.is_file() or not pq.read_metadata(path).num_rows:
        return {}
    return {REJECT_DIGESTS: file_digests(path)}


def reject_list_problem(folder: Path, manifest: Manifest) -> str | None:
    """What is wrong with rejects.parquet of a finished set. Empty ones have no digests, nor have those of earlier
    versions.
    """
    path = folder / REJECTS_NAME
    try:
        found = file_digests(path)
    except FileNotFoundError:
        return "it is missing"
    except DAMAGE as error:
        return f"it cannot be read ({error})"
    expected = manifest.details.get(REJECT_DIGESTS, found)
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return f"its columns {', '.join(wrong)} are not those that were written" if wrong else None
