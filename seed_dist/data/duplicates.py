"""Which pictures come a second time. Decided before any shard is made, from one fingerprint per picture.

The fingerprints of a slice are one small file, made by any worker and kept beside the set: across a crash, for
--update and for repairs, which look at new pictures alone. The verdict is a function of
all of them in the order of the source, so that it is the same for any number of workers, and appended pairs change
nothing about those before them: the first of several copies stays. A pair that is left out for another reason is
nobody's original.

Memory: 16 bytes per picture and a few times that while they are compared; nothing of it without --drop-duplicates.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from seed_dist.data.assembly import PROGRESS
from seed_dist.data.filters import PASSING, Filters, UnusablePairError
from seed_dist.data.image_shard import candidates, use_image
from seed_dist.data.joint_work import do_jointly
from seed_dist.data.leases import Leases
from seed_dist.data.listing import Listing, read_slice
from seed_dist.data.patience import Patience
from seed_dist.data.progress import progress_bar
from seed_dist.data.request import ShardOptions
from seed_dist.errors import DataError
from seed_dist.faults import fault_point
from seed_dist.fsio import atomic_file
from seed_dist.pixels import UnusableImageError, as_rgb

PRINT_BYTES = 16
# Bits of 128 in which two pictures that look the same may differ. Re-compression and resizing change 0 to 3 of them.
NEAR_BITS = 3
_BANDS = NEAR_BITS + 1  # prints that differ in 3 bits are equal in one of 4 parts at least (pigeonhole principle)
_COMPARED_AT_ONCE = 1 << 20
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
Prints = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PrintTask:
    """The fingerprints of slice `number` go to `path`; to `passing` where pictures may come another time."""

    path: Path
    passing: Path
    listing: Path
    number: int
    filters: Filters
    patience: Patience

    @property
    def piece(self) -> str:
        """Its name among the leases."""
        return self.path.stem

    def prints(self) -> Prints | None:
        """[pairs, 1 + 16] uint8 as `write_prints` made them; None where they are not there, or damaged."""
        for path in (self.path, self.passing):
            with (
                suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
                path.open("rb") as file,
                np.load(file, allow_pickle=False) as archive,  # which has a checksum
            ):
                return np.asarray(archive["prints"], dtype=np.uint8)
        return None


def find_copies(listing: Listing, out: Path, kept: Path, options: ShardOptions, leases: Leases) -> dict[int, int]:
    """Positions of pairs whose picture came before -> position of the earlier one.

    Files of prints go to the folder `kept`, so that a slice that is known from an earlier run is not looked at again;
    those that are good for this run alone go below `out`.
    """
    kept.mkdir(exist_ok=True)
    tasks = [
        PrintTask(kept / name, out / PROGRESS / name, listing.path, number, options.filters, options.patience)
        for number, name in enumerate(print_names(listing, options.filters))
    ]
    known = {task: task.prints() for task in tasks}
    left = [task for task, prints in known.items() if prints is None]
    bar = progress_bar(len(tasks), len(tasks) - len(left), "looking for duplicates", "slices")
    with bar, closing(do_jointly(partial(_print_slice, leases), left, options.workers, leases)) as running:
        for _ in running:
            bar.update(1)
    table = np.concatenate([_required(task) if prints is None else prints for task, prints in known.items()])
    prints, usable = table[:, 1:], table[:, 0].astype(bool)
    earlier = first_copies(prints, usable, NEAR_BITS if options.filters.drop_duplicates == "perceptual" else 0)
    return {int(position): int(earlier[position]) for position in np.flatnonzero(earlier >= 0)}


def print_names(listing: Listing, filters: Filters) -> list[str]:
    """Names of the files of prints, by slice: they change with all that the prints depend on."""
    return [f"{made_from}-{filters.digest}.npz" for made_from in listing.slices]


def _required(task: PrintTask) -> Prints:
    prints = task.prints()
    if prints is None:
        raise DataError(f"{task.path} was removed meanwhile. Run the same command again.")
    return prints


def _print_slice(leases: Leases, task: PrintTask) -> bool | None:
    """True once the prints are there, made here or elsewhere; None while another process makes them."""
    lease = leases.claim(task.piece)
    if lease is None:
        return None
    with lease:
        if task.prints() is None:
            write_prints(task)
    return True


def write_prints(task: PrintTask) -> None:
    """[pairs, 1 + 16] uint8: whether the pair is usable, and the print of its picture."""
    pairs = read_slice(task.listing, task.number)
    table, path = np.zeros((len(pairs), 1 + PRINT_BYTES), dtype=np.uint8), task.path
    with closing(candidates(pairs, task.filters, task.patience)) as found:
        for row, candidate in zip(table, found, strict=True):
            if isinstance(candidate, UnusablePairError):  # the shard says why
                path = task.passing if candidate.reason in PASSING else path
                continue
            try:
                value = use_image(candidate.image, task.filters, partial(_print, candidate.image, task))
            except (UnusablePairError, UnusableImageError):
                continue
            row[0], row[1:] = 1, np.frombuffer(value, np.uint8)
    with atomic_file(path) as file:
        np.savez(file, prints=table)
    fault_point("duplicates.prints_written", 0, task.number)


def _print(data: bytes, task: PrintTask, image: Image.Image) -> bytes:
    if task.filters.drop_duplicates == "exact":
        return hashlib.blake2b(data, digest_size=PRINT_BYTES).digest()
    return difference_hash(as_rgb(image))


def difference_hash(image: Image.Image) -> bytes:
    """16 bytes of what a picture looks like: is each of 8 x 8 places brighter than the one to its left, and above?

    dHash by Neal Krawetz ("Kind of Like That", 2013), rows and columns as in Ben Hoyt's package dhash.
    """
    grey = image.convert("L")
    rows = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    columns = np.asarray(grey.resize((8, 9), Image.Resampling.LANCZOS), dtype=np.int16)
    bits = np.concatenate([(np.diff(rows, axis=1) > 0).ravel(), (np.diff(columns, axis=0) > 0).ravel()])
    return np.packbits(bits).tobytes()


def first_copies(prints: Prints, usable: npt.NDArray[np.bool_], near_bits: int) -> npt.NDArray[np.int64]:
    """For each of N prints [N, 16] the position of the earlier usable one that it copies; -1 where it stays.

    A copy differs from an earlier print in at most `near_bits` bits (0 or NEAR_BITS), or from a copy of it.
    """
    earlier = np.full(len(prints), -1, dtype=np.int64)
    places = np.flatnonzero(usable)
    found = _first_equal(prints[places])
    if near_bits:
        originals = np.unique(found)
        distinct, best = np.ascontiguousarray(prints[places[originals]]), np.arange(len(originals))
        for low, high in _candidates(distinct):
            close = _ONES[distinct[low] ^ distinct[high]].sum(axis=1, dtype=np.int64) <= near_bits
            np.minimum.at(best, high[close], low[close])
        while (best != best[best]).any():  # a copy of a copy names the one that stays
            best = best[best]
        found = originals[best][np.searchsorted(originals, found)]
    is_copy = found < np.arange(len(places))
    earlier[places[is_copy]] = places[found[is_copy]]
    return earlier


def _first_equal(prints: Prints) -> npt.NDArray[np.int64]:
    """For each of N prints the number of the first that is equal to it: its own where it is the first."""
    halves = np.ascontiguousarray(prints).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones keep the order of the source
    is_new = np.ones(len(prints), dtype=bool)
    is_new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    found = np.empty(len(prints), dtype=np.int64)
    found[order] = order[is_new][np.cumsum(is_new) - 1]
    return found


def _candidates(prints: Prints) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(earlier, later) positions of all prints that agree in a band of bits, a bounded number at a time."""
    bands = prints.view(np.uint32).reshape(len(prints), _BANDS)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        distance = 1
        left = np.flatnonzero(values[:-1] == values[1:])
        while len(left):  # pairs of neighbours in the sorted order, then of second neighbours, and so on
            for start in range(0, len(left), _COMPARED_AT_ONCE):
                part = left[start : start + _COMPARED_AT_ONCE]
                yield order[part], order[part + distance]  # stable: the left one comes first in the source
            distance += 1
            left = left[left + distance < len(values)]
            left = left[values[left] == values[left + distance]]
