"""Features of several splits as if they were one set, for training on a mixture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from seed_dist.data.reader import Buffers, FeatureShards, PairedFeatures, Rows
from seed_dist.errors import MismatchError
from seed_dist.fsio import fingerprint

V = TypeVar("V")
# What the manifests of a target must agree on: other weights or another pre-processing give other numbers.
_ALIKE = ("dtype", "shape", "weights_sha256", "preprocessing")


class MixedFeatures:
    """Samples of all splits, numbered through in the order of `parts`. It is read like PairedFeatures.

    `sets` are those of the first split; what they say of shapes and dtypes holds for all.
    """

    def __init__(self, parts: Mapping[str, PairedFeatures]) -> None:
        """`parts`: by name of the split, of the same targets and views. MismatchError where two are not alike."""
        self.parts = dict(parts)
        self._parts = tuple(parts.values())
        self._first = (0, *accumulate(len(part) for part in self._parts))  # number of each part's first sample; the end
        self.sets, self.views = self._parts[0].sets, self._parts[0].views
        for part in self._parts[1:]:
            _require_alike(self._parts[0], part)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all splits together."""
        return fingerprint([part.fingerprint for part in self._parts])

    def __len__(self) -> int:
        return self._first[-1]

    @cached_property
    def all_captions(self) -> Sequence[tuple[str, ...]]:
        return _Joined([part.all_captions for part in self._parts], self._first)

    def views_of(self, target: str) -> Iterator[FeatureShards]:
        """The sets of a target of all splits."""
        return chain.from_iterable(part.views_of(target) for part in self._parts)

    @property
    def is_remote(self) -> bool:
        """Whether some of the shards lie elsewhere: then it is worth while to announce what will be read."""
        return any(part.is_remote for part in self._parts)

    def announce(self, ids: Rows, views: Rows | None = None) -> None:
        """Say which samples will be read: those that lie elsewhere are fetched meanwhile."""
        for part, run, rows in self._runs(ids):
            part.announce(rows, None if views is None else views[run])

    @property
    def sample_bytes(self) -> int:
        """On disk, of one view of all targets together; the same in every split."""
        return self._parts[0].sample_bytes

    def read(self, ids: Rows, out: Buffers | None = None, views: Rows | None = None) -> dict[str, npt.NDArray[Any]]:
        """Samples `ids` [B] of every target as {target: [B, *shape]}, in `out` where given.

        `views` [B] are the views of the samples to read, 0 where it is not given.
        """
        whole = {
            target: out[target] if out else np.empty((len(ids), *shards.shape), shards.dtype)
            for target, shards in self.sets.items()
        }
        for part, run, rows in self._runs(ids):
            part.read(rows, {target: whole[target][run] for target in whole}, None if views is None else views[run])
        return whole

    def read_of(self, thread: int) -> tuple[str, float] | None:
        """What a thread is reading now, and since when in `time.monotonic` seconds; None between reads."""
        return next(filter(None, (part.read_of(thread) for part in self._parts)), None)

    def _runs(self, ids: Rows) -> Iterator[tuple[PairedFeatures, slice, Rows]]:
        """Stretches of `ids` that lie in one split: the split, their places, and their numbers within it. Each goes
        into memory of its own as it is; ids that ascend, as those of a micro-batch do, have one for each split.
        """
        numbers = np.searchsorted(self._first, ids, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ids)]
        for begin, end in pairwise(cuts):
            if begin < end:
                number = int(numbers[begin])
                yield self._parts[number], slice(begin, end), ids[begin:end] - self._first[number]


class _Joined(Sequence[V]):
    """Sequences one behind the other, without a copy of them; `first` are the places where they begin, and the end."""

    def __init__(self, parts: Sequence[Sequence[V]], first: Sequence[int]) -> None:
        self._parts, self._first = parts, first

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, place: Any) -> Any:
        number = bisect_right(self._first, place) - 1
        return self._parts[number][place - self._first[number]]


def _require_alike(first: PairedFeatures, other: PairedFeatures) -> None:
    """MismatchError with everything in which a target's features differ."""
    for target in first.sets:
        for ours, theirs in zip(first.views_of(target), other.views_of(target), strict=True):
            found, expected = (
                {name: shards.manifest.details.get(name) for name in _ALIKE} for shards in (theirs, ours)
            )
            names = [name for name in _ALIKE if found[name] != expected[name]]
            if names:
                raise MismatchError(
                    f"{', '.join(names)} of {theirs.folder}",
                    {name: found[name] for name in names},
                    {name: expected[name] for name in names},
                    f"That is what {ours.folder} has, and a mixture needs features that were made alike. Delete one of "
                    "the two and run data_prep/encode.py again with the options of the other.",
                )
