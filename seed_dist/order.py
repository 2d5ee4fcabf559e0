"""The order of the data as arithmetic: which samples make up the global batch of a step, and which a rank takes.

Position p of a run belongs to epoch p // samples, and every epoch is a keyed permutation, so every sample comes exactly
once per epoch. Nothing is stored or drawn in sequence: the place in the data is the step number alone, resume is exact,
and any world size sees the same global batches. No array of the length of the data set is ever made.

A disk wants to read what lies together, so the permutation has two levels. An epoch cuts the samples into blocks of
neighbours, beginning at a sample of its own, and permutes the blocks; a thousand consecutive blocks make a
window, and the samples of a window are permuted among each other. So all reads of a long stretch of steps fall into
one window, which a page cache or a node's disk can hold. A set that is not larger than a window is shuffled as a
whole. `python -m benchmarks.order` measures how well it shuffles.

Positions run on through the end of an epoch: a batch there is the end of one epoch and the start of the next. No batch
is ever short, and none is dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from seed_dist.errors import ConfigError

Ids = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

# One read of so many bytes costs hardly more than the bytes, on a disk and over a network alike. 1024 of them are a
# window of 4 GiB, two of which a node can hold; and so many blocks make a batch of 1024 nearly as mixed as can be.
_BLOCK_BYTES = 4 << 20
WINDOW_BLOCKS = 1024

_CHUNK = 1 << 13  # positions whose samples are found at once

# Four rounds with a pseudo-random round function already make a strong pseudo-random permutation (Luby and Rackoff
# 1988); the halves of small data sets have few bits, so two more are spent.
_ROUNDS = 6
_DIGEST_SHIFT = 48  # no data set has so many bits of samples, and no step more micro-batches than the rest counts


def block_samples(sample_bytes: int) -> int:
    """Samples of that size in a block."""
    return max(1, _BLOCK_BYTES // sample_bytes)


@dataclass(frozen=True)
class SampleOrder:
    """The order of `samples` samples, numbered as they lie on disk, that are shuffled in blocks of `block`.

    Pure: equal fields and arguments give equal numbers on every machine.
    """

    samples: int
    seed: int
    block: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError([f"{self.samples} samples have no order: at least 1 is needed"])

    def batch(self, step: int, global_batch: int) -> Ids:
        """Sample numbers, int64 [global_batch], of global step `step` (from 0); a batch may reach into the next epoch.

        A batch larger than the data holds samples more than once. Raises ConfigError for an empty batch.
        """
        if global_batch < 1:
            raise ConfigError([f"a global batch of {global_batch} makes no step: at least 1 sample is needed"])
        assert step >= 0, f"step {step} is negative"
        first, last = step * global_batch, (step + 1) * global_batch
        chunks = range(first // _CHUNK, -(-last // _CHUNK))
        ids = np.concatenate([_chunk_ids(self, chunk) for chunk in chunks])
        return ids[first - chunks.start * _CHUNK : last - chunks.start * _CHUNK]

    def ids(self, positions: Ids) -> Ids:
        """The sample at each of these positions of the run, int64 as they are."""
        ids = np.empty(len(positions), dtype=np.int64)
        epochs, places = np.divmod(positions, self.samples)
        windows = epochs * self._windows + self._window_of(places)  # counted through all epochs
        for window in np.unique(windows):
            chosen = windows == window
            ids[chosen] = self._in_window(places[chosen], *divmod(int(window), self._windows))
        return ids

    @property
    def window_samples(self) -> int:
        """Samples of an ordinary window; windows differ by one block, and the last has the samples that fill none."""
        return self.samples // self._windows

    @property
    def _blocks(self) -> int:
        return self.samples // self.block  # whole ones

    @property
    def _windows(self) -> int:
        return max(1, (self._blocks + WINDOW_BLOCKS // 2) // WINDOW_BLOCKS)

    def _window_of(self, places: Ids) -> Ids:
        """Window w begins with block w * blocks // windows; this is its inverse."""
        if self._windows == 1:
            return np.zeros_like(places)
        blocks = np.minimum(places // self.block, self._blocks - 1)
        return ((blocks + 1) * self._windows - 1) // self._blocks

    def _in_window(self, places: Ids, epoch: int, window: int) -> Ids:
        if self._windows == 1:
            return permute(places, self.samples, self.seed, epoch)
        first = window * self._blocks // self._windows
        end = (window + 1) * self._blocks // self._windows * self.block
        size = (self.samples if window == self._windows - 1 else end) - first * self.block
        inside = permute(places - first * self.block, size, self.seed, epoch, window)
        slots, offsets = np.divmod(inside, self.block)
        start = _round_keys(self.seed, epoch, -2)[0] % self.samples
        return (_window_blocks(self, epoch, window)[slots] * self.block + offsets + start) % self.samples


@lru_cache(maxsize=4)
def _chunk_ids(order: SampleOrder, chunk: int) -> Ids:
    """The samples at a stretch of positions: a hundred calls of numpy make many batches then, not one."""
    return order.ids(np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK, dtype=np.int64))


@lru_cache(maxsize=8)
def _window_blocks(order: SampleOrder, epoch: int, window: int) -> Ids:
    """The blocks of a window in their order. What is left after the last whole block stays last; the samples that it
    holds are others every epoch, because the blocks begin elsewhere.
    """
    first, end = (number * order._blocks // order._windows for number in (window, window + 1))
    blocks = permute(np.arange(first, end, dtype=np.int64), order._blocks, order.seed, epoch, -1)
    return np.append(blocks, order._blocks)


def rank_slice(ids: Ids, rank: int, size: int) -> Ids:
    """The contiguous part of a global batch that `rank` of `size` takes; parts differ by one sample at most."""
    assert 0 <= rank < size, f"rank {rank} of {size}"
    return ids[len(ids) * rank // size : len(ids) * (rank + 1) // size]


def rank_rows(rows: int, size: int) -> tuple[int, ...]:
    """How many of so many samples each rank takes."""
    return tuple(rows * (rank + 1) // size - rows * rank // size for rank in range(size))


def digest(parts: Sequence[Ids]) -> int:
    """A number below 2^64 that tells which samples are in which micro-batch of a step.

    Of parts of micro-batches, as the ranks take them, it is the whole's when summed over the ranks modulo 2^64: so it
    does not depend on their number, nor on the order inside a micro-batch, which is that of the disk.
    """
    places = (np.uint64(number << _DIGEST_SHIFT) for number in range(len(parts)))
    words = (_mixed(ids.astype(np.uint64) + place) for ids, place in zip(parts, places, strict=True))
    return sum(int(part.sum(dtype=np.uint64)) for part in words) % 2**64


def permute(places: Ids, samples: int, *key: int) -> Ids:
    """Where the places 0..samples-1 go: a permutation chosen by `key`, for any subset of the places.

    A Feistel network on pairs (left, right) of numbers below a and b, where a * b is hardly more than `samples` (Black
    and Rogaway 2002, "generalized Feistel"); a value that lands outside the samples goes through the network again
    until it lands inside (cycle walking), which keeps the map one to one.
    """
    left_size = math.isqrt(samples - 1) + 1
    right_size = -(-samples // left_size)
    keys = _round_keys(*key)
    values = _network(places.astype(np.uint64), left_size, right_size, keys)
    while (outside := values >= samples).any():
        values[outside] = _network(values[outside], left_size, right_size, keys)
    return values.astype(np.int64)


def _network(values: _Words, left_size: int, right_size: int, keys: tuple[int, ...]) -> _Words:
    left, right = np.divmod(values, np.uint64(right_size))
    for here, there in zip(keys[::2], keys[1::2], strict=True):
        left = _added(left, right ^ np.uint64(here), np.uint64(left_size))
        right = _added(right, left ^ np.uint64(there), np.uint64(right_size))
    return left * np.uint64(right_size) + right


def _added(values: _Words, words: _Words, size: np.uint64) -> _Words:
    """`values` plus numbers below `size` that are drawn from `words`, modulo `size`, which is below 2^32."""
    values = values + (((_mixed(words) >> np.uint64(32)) * size) >> np.uint64(32))
    return values - size * (values >= size)


def _mixed(words: _Words) -> _Words:
    """Every input bit into every output bit: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=64)
def _round_keys(*key: int) -> tuple[int, ...]:
    name = " ".join(map(str, key))
    digests = (hashlib.sha256(f"order {name} {r}".encode()).digest() for r in range(_ROUNDS))
    return tuple(int.from_bytes(digest[:8], "little") for digest in digests)
