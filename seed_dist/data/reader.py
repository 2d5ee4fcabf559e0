"""How everything above reads data: images by number, features by arrays of numbers, several sets side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from seed_dist.data.codec import decode_image
from seed_dist.data.image_policy import upright_size
from seed_dist.data.index import DIGESTS
from seed_dist.data.manifest import MANIFEST_NAME, QUARANTINED, Manifest, load_manifest
from seed_dist.data.precision import decoded, decoded_dtype, stored_layout
from seed_dist.data.shard_files import ShardFiles
from seed_dist.data.views import VIEWED, view_name
from seed_dist.data.writer import npy_header
from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import fingerprint

V = TypeVar("V")
Rows = npt.NDArray[np.int64]
Buffers = Mapping[str, npt.NDArray[Any]]  # of each target, [B, *shape]


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

    @property
    def all_captions(self) -> list[tuple[str, ...]]:
        """All captions of every sample: (image, caption) pairs for training, and what retrieval counts as a hit."""
        return self._files.index.all_captions

    @property
    def is_remote(self) -> bool:
        """Whether the shards lie elsewhere."""
        return self._files.is_remote

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

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of sample `i` as it is shown, in pixels; only its head is decoded."""
        with Image.open(io.BytesIO(self.image_bytes(i))) as image:
            return upright_size(image)


class FeatureShards(_ShardSet):
    """A finished set of arrays, all of one dtype and shape. DataError where it is not intact.

    `dtype` and `shape` are those of what is read; on disk it may be less (`seed_dist.data.precision`). `quarantined`
    are the rows whose sample could not be encoded: zeros stand there.
    """

    kind = "features"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.precision = str(self.manifest.details["dtype"])
        self.shape: tuple[int, ...] = tuple(self.manifest.details["shape"])
        self.dtype = decoded_dtype(self.precision)
        self._stored, self._stored_shape = stored_layout(self.precision, self.shape)
        self.quarantined: frozenset[int] = frozenset(self.manifest.details.get(QUARANTINED, ()))
        self.value_bytes = self._stored.itemsize * int(np.prod(self._stored_shape, dtype=np.int64))
        usual = npy_header(self._stored, self._stored_shape)
        self._header_bytes = int(self._files.index.size[0]) - self.value_bytes if len(self) else len(usual)
        self._check_header()

    def read(self, ids: Rows, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Samples `ids` [B] as [B, *shape] of `dtype`, in the order asked for; in `out`, where it is given."""
        if out is None:
            out = np.empty((len(ids), *self.shape), dtype=self.dtype)
        assert out.shape == (len(ids), *self.shape), f"{out.shape}, not [{len(ids)}, {self.shape}]"
        assert out.dtype == self.dtype, f"{out.dtype}, not {self.dtype}"
        if (self._stored, self._stored_shape) == (self.dtype, self.shape):
            return self.read_stored(ids, out)
        return decoded(self.read_stored(ids), self.precision, out)

    def read_stored(self, ids: Rows, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Samples `ids` [B] as they are on disk."""
        if out is None:
            out = np.empty((len(ids), *self._stored_shape), dtype=self._stored)
        assert out.flags.c_contiguous, "there are gaps in the memory that is to be filled"
        self._files.read_rows(ids, self._header_bytes, out.view(np.uint8).reshape(len(ids), self.value_bytes))
        return out

    def announce(self, ids: Rows) -> None:
        """Say which samples will be read: those that lie elsewhere are fetched meanwhile."""
        self._files.announce(ids)

    def read_of(self, thread: int) -> tuple[str, float] | None:
        """What a thread is reading now, and since when in `time.monotonic` seconds; None between reads."""
        return self._files.read_of(thread)

    def _check_header(self) -> None:
        """All payloads have one length, and the first starts with the header that the manifest promises."""
        if not len(self):
            return
        first = io.BytesIO(self._files.read(0))
        try:
            np.lib.format.read_magic(first)  # type: ignore[no-untyped-call]
            shape, _, dtype = np.lib.format.read_array_header_1_0(first)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise DataError(f"{self._files.place(0)} is no array: {error}. Make {self.folder} again.") from error
        found = (str(dtype), tuple(shape), first.tell(), self._files.index.one_size is not None)
        if found != (str(self._stored), self._stored_shape, self._header_bytes, True):
            raise DataError(
                f"{self._files.place(0)} holds {dtype} {shape}, but the manifest says {self.precision} {self.shape} "
                f"for every sample. Delete {self.folder} and make it again."
            )


class PairedFeatures:
    """Feature sets of one split side by side: sample `i` of each is made from the same image and caption.

    Samples that some set could not encode are not among them. `sets` are those of view 0; with `views`, there are as
    many of each target (`seed_dist.data.views`).
    """

    def __init__(self, work: Path, split: str, targets: Sequence[str], views: int = 1) -> None:
        """Raises DataError where a set is not finished, MismatchError where two do not belong together."""
        assert targets, "no targets"
        names = dict.fromkeys(view_name(target, view) for view in range(views) for target in targets)
        by_name = {name: FeatureShards(work / "features" / name / split) for name in names}
        self._views = [{target: by_name[view_name(target, view)] for target in targets} for view in range(views)]
        self.sets, self._all = self._views[0], tuple(by_name.values())
        self._first = self.sets[targets[0]]
        for other in self._all:
            _require_same_samples(self._first, other)
        for view in self._views:
            _require_same_view(self.sets, view)
        _require_current_images(work / "images" / split, self._first)
        left_out = frozenset().union(*(shards.quarantined for shards in self._all))
        gaps = np.array(sorted(left_out), np.int64)
        self._left_out = gaps - np.arange(len(gaps))  # as numbers of the samples that come next

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all sets together."""
        prints = {target: shards.manifest.fingerprint for target, shards in self.sets.items()}
        if len(self._views) == 1:
            return fingerprint(prints)
        return fingerprint([{target: shards.manifest.fingerprint for target, shards in v.items()} for v in self._views])

    def __len__(self) -> int:
        return len(self._first) - len(self._left_out)

    @cached_property
    def keys(self) -> list[str]:
        return self._kept(self._first.keys)

    @cached_property
    def captions(self) -> list[str]:
        return self._kept(self._first.captions)

    @cached_property
    def all_captions(self) -> list[tuple[str, ...]]:
        return self._kept(self._first.all_captions)

    @property
    def views(self) -> int:
        """How many of each image."""
        return len(self._views)

    def views_of(self, target: str) -> Iterator[FeatureShards]:
        """The sets of a target, view 0 first."""
        return (view[target] for view in self._views)

    @property
    def is_remote(self) -> bool:
        """Whether some of the shards lie elsewhere: then it is worth while to announce what will be read."""
        return any(shards.is_remote for shards in self._all)

    def announce(self, ids: Rows, views: Rows | None = None) -> None:
        """Say which samples will be read: those that lie elsewhere are fetched meanwhile."""
        for target in self.sets:
            for shards, places in self._by_view(target, ids, views):
                shards.announce(self._rows_of(ids)[places])

    @property
    def sample_bytes(self) -> int:
        """On disk, of one view of all targets together."""
        return sum(shards.value_bytes for shards in self.sets.values())

    def read(self, ids: Rows, out: Buffers | None = None, views: Rows | None = None) -> dict[str, npt.NDArray[Any]]:
        """Samples `ids` [B] of every target as {target: [B, *shape]}, in `out` where given.

        `views` [B] are the views of the samples to read, 0 where it is not given.
        """
        return {target: self._read(target, ids, out[target] if out else None, views) for target in self.sets}

    def _read(self, target: str, ids: Rows, out: npt.NDArray[Any] | None, views: Rows | None) -> npt.NDArray[Any]:
        rows, shards = self._rows_of(ids), self.sets[target]
        if views is None:
            return shards.read(rows, out)
        if out is None:
            out = np.empty((len(ids), *shards.shape), shards.dtype)
        for of_view, places in self._by_view(target, ids, views):
            out[places] = of_view.read(rows[places])
        return out

    def _by_view(self, target: str, ids: Rows, views: Rows | None) -> Iterator[tuple[FeatureShards, Any]]:
        """The sets of a target that hold these samples, each with the places of its samples."""
        if views is None:
            views = np.zeros(len(ids), np.int64)
        for view in np.unique(views):
            yield self._views[view][target], views == view

    def _rows_of(self, ids: Rows) -> Rows:
        return ids + np.searchsorted(self._left_out, ids, side="right")

    def _kept(self, values: list[V]) -> list[V]:
        return [values[row] for row in self._rows_of(np.arange(len(self)))] if len(self._left_out) else values

    def read_of(self, thread: int) -> tuple[str, float] | None:
        """What a thread is reading now, and since when in `time.monotonic` seconds; None between reads."""
        return next(filter(None, (shards.read_of(thread) for shards in self._all)), None)


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


def _require_same_view(plain: Mapping[str, FeatureShards], view: Mapping[str, FeatureShards]) -> None:
    """Of one view, all targets must show the same part of the picture, and be like view 0 in type and shape."""
    viewed = [target for target in view if target in VIEWED]
    for target in viewed:
        crop, expected = (view[name].manifest.details.get("view") for name in (target, viewed[0]))
        layout, plain_layout = ((shards.precision, shards.shape) for shards in (view[target], plain[target]))
        if (crop, layout) != (expected, plain_layout):
            raise MismatchError(
                f"view, dtype and shape in {view[target].folder}",
                (crop, *layout),
                (expected, *plain_layout),
                "Delete the features of that view and run data_prep/encode.py again with the options of the others.",
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
