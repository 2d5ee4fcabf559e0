"""The order of the data as arithmetic: which samples make up the global batch of a step, and which a rank takes.

Position p of a run belongs to epoch p // samples; the positions of one epoch are permuted by a keyed bijection, so
every sample comes exactly once per epoch. Nothing is stored or drawn in sequence: the place in the data is the step
number alone, resume is exact, and any world size sees the same global batches. No array of the length of the data
set is ever made.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from seed_dist.errors import ConfigError

Ids = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

# Four rounds with a pseudo-random round function already make a strong pseudo-random permutation (Luby and Rackoff
# 1988); the halves of small data sets have few bits, so two more are spent.
_ROUNDS = 6


def batch_ids(samples: int, seed: int, step: int, global_batch: int) -> Ids:
    """Sample numbers, int64 [global_batch], of global step `step` (from 0); a batch may reach into the next epoch.

    Pure: equal arguments give equal ids on every machine. A batch larger than the data holds samples more than once.
    Raises ConfigError for an empty data set.
    """
    if samples < 1 or global_batch < 1:
        raise ConfigError(
            [f"{samples} samples and a global batch of {global_batch} make no step: at least 1 of each is needed"]
        )
    assert step >= 0, f"step {step} is negative"
    positions = np.arange(step * global_batch, (step + 1) * global_batch, dtype=np.int64)
    epochs, places = np.divmod(positions, samples)
    ids = np.empty(global_batch, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        chosen = epochs == epoch
        ids[chosen] = permute(places[chosen], samples, seed, epoch)
    return ids


def rank_slice(ids: Ids, rank: int, size: int) -> Ids:
    """The contiguous equal part of a global batch that `rank` of `size` takes."""
    if len(ids) % size:
        raise ConfigError(
            [
                f"global_batch {len(ids)} cannot be divided among {size} processes: "
                f"choose a multiple of {size}, or start a number of processes that divides {len(ids)}"
            ]
        )
    assert 0 <= rank < size, f"rank {rank} of {size}"
    part = len(ids) // size
    return ids[rank * part : (rank + 1) * part]


def permute(places: Ids, samples: int, seed: int, epoch: int) -> Ids:
    """Where the places 0..samples-1 of an epoch go: a permutation keyed by (seed, epoch), for any subset of the
    places.

    The Feistel network permutes 0..4^h-1, the smallest such range that holds `samples`; a value that lands outside
    the samples goes through the network again until it lands inside (cycle walking), which keeps the map one to one.
    """
    half_bits = max(1, ((samples - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    values = _network(places.astype(np.uint64), half_bits, keys)
    while (outside := values >= samples).any():
        values[outside] = _network(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _network(values: _Words, half_bits: int, keys: tuple[int, ...]) -> _Words:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
    return (left << shift) | right


def _mixed(words: _Words) -> _Words:
    """Every input bit into every output bit: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    digests = (hashlib.sha256(f"order {seed} {epoch} {r}".encode()).digest() for r in range(_ROUNDS))
    return tuple(int.from_bytes(digest[:8], "little") for digest in digests)
