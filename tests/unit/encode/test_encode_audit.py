"""Audits: equal bits pass, and whatever is not what the encoder makes is found and named."""

import dataclasses
import shutil
import zlib

import numpy as np
import pytest

from seed_dist.data.index import DIGESTS, IndexRow, write_index
from seed_dist.data.manifest import load_manifest, write_manifest
from seed_dist.data.reader import FeatureShards
from seed_dist.encode.audit import audit_split
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.runner import EncodeOptions
from seed_dist.errors import MismatchError
from seed_dist.fsio import sha256_file
from tests.unit.encode.test_encode_runner import Means, encode_split, images  # noqa: F401 - a fixture

OPTIONS = EncodeOptions(batch_size=4)


@pytest.fixture
def out(tmp_path, images):  # noqa: F811
    encode_split(images, {tmp_path / "out": Means()}, batch_size=4)
    return tmp_path / "out"


def flip_a_bit(folder, row):
    """In the features of a row, as a broken machine would before the checksum was taken: all of them are right."""
    shards, manifest = FeatureShards(folder), load_manifest(folder)
    index = shards._files.index
    place, number = int(index.offset[row] + index.size[row]) - 1, int(index.shard[row])
    path = folder / manifest.shards[number].name
    data = bytearray(path.read_bytes())
    data[place - 1] ^= 1  # the last bit of the last number
    path.write_bytes(data)
    rows = [
        IndexRow(
            shards.keys[i], int(index.offset[i]), int(index.size[i]),
            _crc(folder / manifest.shards[int(index.shard[i])].name, int(index.offset[i]), int(index.size[i])),
            shards.captions[i], "npy",
        )
        for i in range(len(shards))
    ]  # fmt: skip
    by_shard = [(entry.name, [rows[i] for i in shards.shard_rows(n)]) for n, entry in enumerate(manifest.shards)]
    entries = tuple(dataclasses.replace(entry, sha256=sha256_file(folder / entry.name)) for entry in manifest.shards)
    details = {**manifest.details, DIGESTS: write_index(folder, by_shard)}
    write_manifest(folder, dataclasses.replace(manifest, shards=entries, details=details))


def _crc(path, offset, size):
    return zlib.crc32(path.read_bytes()[offset : offset + size])


def test_what_the_encoder_makes_is_equal_to_the_last_bit(images, out):  # noqa: F811
    audit = audit_split(images, out, Means(), OPTIONS, 10, seed=0)
    assert (audit.samples, audit.differences) == (10, ())
    assert audit_split(images, out, Means(), OPTIONS, 1000, seed=0).samples == 24


def test_the_samples_are_random_and_repeatable(images, out):  # noqa: F811
    looked = [Means() for _ in range(3)]
    for encoder, seed in zip(looked, (0, 0, 1), strict=True):
        audit_split(images, out, encoder, EncodeOptions(batch_size=1), 8, seed)
    assert looked[0].seen == looked[1].seen != looked[2].seen
    assert len(looked[0].seen) == 8


def test_one_bit_with_right_checksums_is_found(images, out):  # noqa: F811
    flip_a_bit(out, 13)
    assert FeatureShards(out).read(np.arange(24)).shape == (24, 3, 2)  # the reader has nothing to complain of
    audit = audit_split(images, out, Means(), OPTIONS, 24, seed=0)
    (found,) = audit.differences
    assert found.key == FeatureShards(out).keys[13]
    assert 0 < found.largest < 1e-3
    assert audit.beyond(0.0) == [found]
    assert audit.beyond(1e-3) == []


def test_a_sample_that_became_nan_is_beyond_any_tolerance(images, out):  # noqa: F811
    audit = audit_split(images, out, Means(spoil="000000017"), OPTIONS, 24, seed=0)
    assert [found.key for found in audit.beyond(0.1)] == ["000000017"]


def test_other_weights_preprocessing_and_dtypes_are_named(images, out):  # noqa: F811
    class Cropped(Means):
        def details(self):
            return {**super().details(), "preprocessing": "cropped"}

    for other, what in (
        (Means(weights="w2"), "weights_sha256"),
        (Cropped(), "preprocessing"),
        (Means(dtype="float32"), "dtype"),
    ):
        with pytest.raises(MismatchError, match=f"^{what} of"):
            audit_split(images, out, other, OPTIONS, 5, seed=0)
    with pytest.raises(MismatchError, match="view"):
        audit_split(images, out, Means(), EncodeOptions(crop=Crop(0, 1)), 5, seed=0)


def test_weights_that_are_not_those_of_the_manifest_are_found(images, out):  # noqa: F811
    class Brighter(Means):
        def __call__(self, batch):
            return super().__call__(batch) * np.float16(1.01)

    assert len(audit_split(images, out, Brighter(), OPTIONS, 24, seed=0).beyond(0.002)) == 24


def test_views_are_audited_with_their_crop(tmp_path, images):  # noqa: F811
    options = EncodeOptions(batch_size=1, crop=Crop(0, 1))  # crops are of unlike size, and this encoder takes any
    encode_split(images, {tmp_path / "view": Means()}, batch_size=1, crop=Crop(0, 1))
    assert audit_split(images, tmp_path / "view", Means(), options, 24, seed=0).differences == ()


def test_quarantined_samples_are_no_findings(tmp_path, images):  # noqa: F811
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    encode_split(images, {tmp_path / "out": Means(spoil="000000017")}, batch_size=4, max_reject_fraction=0.1)
    audit = audit_split(images, tmp_path / "out", Means(), OPTIONS, 24, seed=0)
    assert (audit.samples, audit.differences) == (23, ())
