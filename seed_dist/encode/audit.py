"""Are the stored features what the encoder makes? Random samples are encoded again and compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.assembly import Assembly
from seed_dist.data.precision import decoded
from seed_dist.data.reader import FeatureShards
from seed_dist.encode.attempts import Attempts
from seed_dist.encode.batches import BatchMaker, Source
from seed_dist.encode.encoder import Encoder
from seed_dist.encode.job import feature_plan
from seed_dist.encode.runner import EncodeOptions, open_source, shard_blocks


@dataclass(frozen=True)
class Difference:
    """A sample that came out otherwise; `largest` in units of the sample's largest stored magnitude."""

    key: str
    largest: float


@dataclass(frozen=True)
class Audit:
    """What an audit of one feature set found."""

    folder: Path
    samples: int
    differences: tuple[Difference, ...]

    def beyond(self, tolerance: float) -> list[Difference]:
        """Those that are off by more; a tolerance of 0 asks for equal bits."""
        return [found for found in self.differences if not found.largest <= tolerance or tolerance == 0]


def audit_split(
    source_folder: Path, folder: Path, encoder: Encoder, options: EncodeOptions, samples: int, seed: int
) -> Audit:
    """Encode `samples` random samples of the finished features in `folder` again.

    Each in the batch that it was encoded in, because sums may be rounded otherwise in a batch of another size: with
    the same batch size and hardware the bits must be equal. Raises MismatchError where the manifest names other
    weights, pre-processing or dtype than the encoder's.
    """
    source, stored = open_source(source_folder), FeatureShards(folder)
    Assembly(folder, feature_plan(encoder, source.manifest, options.crop)).begin()
    rows = [row for row in range(len(stored)) if row not in stored.quarantined]
    chosen = sorted(random.Random(seed).sample(rows, min(samples, len(rows))))
    make = BatchMaker(source, [] if encoder.preprocess is None else [encoder.preprocess], options.crop)
    attempts, differences = Attempts(), list[Difference]()
    for block, wanted in _by_block(source, chosen, options.batch_size).items():
        ((values, _),) = attempts([encoder], make(block))
        for row in wanted:
            (before,), now = stored.read_stored(np.array([row])), values[row - block.start]
            if before.tobytes() != now.tobytes():
                differences.append(Difference(stored.keys[row], _deviation(before, now, stored.precision)))
    return Audit(folder, len(chosen), tuple(differences))


def _by_block(source: Source, rows: Sequence[int], batch_size: int) -> dict[range, list[int]]:
    """The rows by the batch they were encoded in."""
    numbers = range(len(source.manifest.shards))
    blocks = (block for number in numbers for block in shard_blocks(source.shard_rows(number), batch_size))
    grouped = {block: [row for row in rows if row in block] for block in blocks}
    return {block: wanted for block, wanted in grouped.items() if wanted}


def _deviation(before: npt.NDArray[Any], now: npt.NDArray[Any], dtype: str) -> float:
    first, second = (decoded(stored, dtype).astype(np.float64) for stored in (before, now))
    return float(np.abs(first - second).max() / max(float(np.abs(first).max()), np.finfo(np.float64).tiny))
