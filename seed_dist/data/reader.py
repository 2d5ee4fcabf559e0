"""How everything above reads data: images by number, features by arrays of numbers, several sets side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seed_dist.data.codec import decode_image
from seed_dist.data.index import DIGESTS
from seed_dist.data.manifest import MANIFEST_NAME, QUARANTINED, Manifest, load_manifest
from seed_dist.data.precision import decoded, stored_layout
from seed_dist.data.shard_files import ShardFiles, by_place
from seed_dist.data.views import VIEWED, view_name
from seed_dist.data.writer import npy_header
from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import fingerprint

Rows = npt.NDArray[np.int64]


class _ShardSet:
    """What images and features have in common. Threads may share one."""

    kind = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = ShardFiles(folder, self.kind)

    @property
    def manifest(self) -> Manifest:
        return self._files.manifest

    def __len__(self) -> int:
        return self.manifest.samples

    @property
    def keys(self) -> list[str]:
        return self._files.index.keys

    @property
    def captions(self) -> list[str]:
        return self._files.index.captions

    def shard_rows(self, shard_number: int) -> range:
        """The numbers of the samples that a shard holds."""
        return self._files.shard_rows(shard_number)


class ImageShards(_ShardSet):
    """A finished set of images with captions. DataError where it is not intact."""

    kind = "images"

    def image_bytes(self, i: int) -> bytes:
        """The stored file of sample `i`: JPEG, PNG or WebP."""
        return bytes(self._files.read(i))

    def image(self, i: int) -> Image.Image:
        """Sample `i` as upright RGB."""
        return decode_image(self.image_bytes(i))


class FeatureShards(_ShardSet):
    """A finished set of arrays, all of one dtype and shape. DataError where it is not intact.

    `quarantined` are the rows whose sample the encoder could not encode: zeros stand there.
    """

    kind = "features"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dtype = str(self.manifest.details["dtype"])
        self._stored, self.shape = stored_layout(self.dtype, tuple(self.manifest.details["shape"]))
        self.quarantined: frozenset[int] = frozenset(self.manifest.details.get(QUARANTINED, ()))
        self._value_bytes = self._stored.itemsize * int(np.prod(self.shape, dtype=np.int64))
        sizes = self._files.index.size
        self._header_bytes = (
            int(sizes[0]) - self._value_bytes if len(sizes) else len(npy_header(self._stored, self.shape))
        )
        self._check_header()

    def read(self, ids: Rows) -> npt.NDArray[Any]:
        """Samples `ids` [B] as [B, ...] in the order asked for: bfloat16 and int8 as fp32, others as stored."""
        return decoded(self.read_stored(ids), self.dtype)

    def read_stored(self, ids: Rows) -> npt.NDArray[Any]:
        """Samples `ids` [B] in the layout of `seed_dist.data.precision`."""
        out = np.empty((len(ids), *self.shape), dtype=self._stored)
        flat = out.view(np.uint8).reshape(len(ids), self._value_bytes)
        header = bytearray(self._header_bytes)
        for i in by_place(ids):
            self._files.read_into(int(ids[i]), [header, flat[i]])
        return out

    def _check_header(self) -> None:
        """All payloads have one length, and the first starts with the header that the manifest promises."""
        if not len(self):
            return
        sizes, first = self._files.index.size, io.BytesIO(self._files.read(0))
        try:
            np.lib.format.read_magic(first)  # type: ignore[no-untyped-call]
            shape, _, dtype = np.lib.format.read_array_header_1_0(first)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise DataError(f"{self._files.place(0)} is no array: {error}. Make {self.folder} again.") from error
        found = (str(dtype), tuple(shape), first.tell(), bool((sizes == sizes[0]).all()))
        if found != (str(self._stored), self.shape, self._header_bytes, True):
            raise DataError(
                f"{self._files.place(0)} holds {dtype} {shape}, but the manifest says {self._stored} {self.shape} for "
                f"every sample. Delete {self.folder} and make it again."
            )


class PairedFeatures:
    """Feature sets of one split side by side: sample `i` of each is made from the same image and caption.

    Samples that some set could not encode are not among them. With `views`, each target has so many sets, one of each
    view (`seed_dist.data.views`); `sets` has all of them by name.
    """

    def __init__(self, work: Path, split: str, targets: Sequence[str], views: int = 1) -> None:
        """Raises DataError where a set is not finished, MismatchError where two do not belong together."""
        assert targets, "no targets"
        self._targets = targets
        names = dict.fromkeys(view_name(target, view) for view in range(views) for target in targets)
        self.sets = {name: FeatureShards(work / "features" / name / split) for name in names}
        self._first = self.sets[targets[0]]
        for other in self.sets.values():
            _require_same_samples(self._first, other)
        for view in range(views):
            _require_same_crop([self.sets[view_name(target, view)] for target in targets if target in VIEWED])
        _require_current_images(work / "images" / split, self._first)
        left_out = frozenset().union(*(shards.quarantined for shards in self.sets.values()))
        self._rows = np.array([row for row in range(len(self._first)) if row not in left_out]) if left_out else None

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all sets together."""
        return fingerprint({name: shards.manifest.fingerprint for name, shards in self.sets.items()})

    def __len__(self) -> int:
        return len(self._first) if self._rows is None else len(self._rows)

    @cached_property
    def keys(self) -> list[str]:
        return self._kept(self._first.keys)

    @cached_property
    def captions(self) -> list[str]:
        return self._kept(self._first.captions)

    def read(self, ids: Rows, views: npt.NDArray[np.int64] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Samples `ids` [B] of every target as {target: [B, *shape]}: view 0, or views [B] of them."""
        rows = ids if self._rows is None else self._rows[ids]
        if views is None:
            return {target: self.sets[target].read(rows) for target in self._targets}
        return {target: self._read_views(target, rows, views) for target in self._targets}

    def _read_views(self, target: str, rows: Rows, views: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        parts = {view: self.sets[view_name(target, int(view))].read(rows[views == view]) for view in np.unique(views)}
        first = next(iter(parts.values()))
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for view, part in parts.items():
            out[views == view] = part
        return out

    def _kept(self, values: list[str]) -> list[str]:
        return values if self._rows is None else [values[row] for row in self._rows]


def _require_same_samples(first: FeatureShards, other: FeatureShards) -> None:
    """Keys are compared by their digests, so that millions of them need not be loaded."""
    for what, found, expected in (
        ("source images", other.manifest.parents.get("images"), first.manifest.parents.get("images")),
        ("keys", other.manifest.details[DIGESTS]["key"], first.manifest.details[DIGESTS]["key"]),
    ):
        if found != expected:
            raise MismatchError(
                f"fingerprint of the {what} of {other.folder}",
                found,
                expected,
                f"That is what {first.folder} has. Delete the older of the two and run data_prep/encode.py again.",
            )


def _require_same_crop(sets: Sequence[FeatureShards]) -> None:
    """Of one view, all targets must show the same part of the picture."""
    for other in sets[1:]:
        found, expected = (shards.manifest.details.get("view") for shards in (other, sets[0]))
        if found != expected:
            raise MismatchError(
                f"view in {other.folder}",
                found,
                expected,
                f"That is what {sets[0].folder} has. Delete one of them and run data_prep/encode.py again.",
            )


def _require_current_images(images: Path, features: FeatureShards) -> None:
    """Images that were sharded anew since make the features those of another set; images that were removed do not."""
    if not (images / MANIFEST_NAME).exists():
        return
    expected, found = load_manifest(images).fingerprint, features.manifest.parents.get("images")
    if found != expected:
        raise MismatchError(
            f"fingerprint of the source images of {features.folder}",
            found,
            expected,
            f"The images in {images} are others now: delete the features made from the old ones and encode again.",
        )
