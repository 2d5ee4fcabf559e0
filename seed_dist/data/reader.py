"""How everything above reads data: images by number, features by arrays of numbers, several sets side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seed_dist.data.codec import decode_image
from seed_dist.data.index import DIGESTS
from seed_dist.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from seed_dist.data.shard_files import ShardFiles, by_place
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

    @property
    def all_captions(self) -> list[tuple[str, ...]]:
        """All captions of every sample: (image, caption) pairs for training, and what retrieval counts as a hit."""
        return self._files.index.all_captions

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
    """A finished set of arrays, all of one dtype and shape. DataError where it is not intact."""

    kind = "features"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dtype = np.dtype(str(self.manifest.details["dtype"]))
        self.shape: tuple[int, ...] = tuple(self.manifest.details["shape"])
        self._value_bytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        sizes = self._files.index.size
        self._header_bytes = (
            int(sizes[0]) - self._value_bytes if len(sizes) else len(npy_header(self.dtype, self.shape))
        )
        self._check_header()

    def read(self, ids: Rows) -> npt.NDArray[Any]:
        """Samples `ids` [B] as [B, *shape] in the stored dtype, in the order asked for."""
        out = np.empty((len(ids), *self.shape), dtype=self.dtype)
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
        if found != (str(self.dtype), self.shape, self._header_bytes, True):
            raise DataError(
                f"{self._files.place(0)} holds {dtype} {shape}, but the manifest says {self.dtype} {self.shape} for "
                f"every sample. Delete {self.folder} and make it again."
            )


class PairedFeatures:
    """Feature sets of one split side by side: sample `i` of each is made from the same image and caption."""

    def __init__(self, work: Path, split: str, targets: Sequence[str]) -> None:
        """Raises DataError where a set is not finished, MismatchError where two do not belong together."""
        assert targets, "no targets"
        self.sets = {target: FeatureShards(work / "features" / target / split) for target in targets}
        self._first = self.sets[targets[0]]
        for other in self.sets.values():
            _require_same_samples(self._first, other)
        _require_current_images(work / "images" / split, self._first)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all sets together."""
        return fingerprint({target: shards.manifest.fingerprint for target, shards in self.sets.items()})

    def __len__(self) -> int:
        return len(self._first)

    @property
    def keys(self) -> list[str]:
        return self._first.keys

    @property
    def captions(self) -> list[str]:
        return self._first.captions

    @property
    def all_captions(self) -> list[tuple[str, ...]]:
        return self._first.all_captions

    def read(self, ids: Rows) -> dict[str, npt.NDArray[Any]]:
        """Samples `ids` [B] of every target as {target: [B, *shape]} in the stored dtypes."""
        return {target: shards.read(ids) for target, shards in self.sets.items()}


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
