"""Reading back: fast paths give the right numbers, and nothing that is not intact is ever returned."""

import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seed_dist.data.assembly import Assembly, Plan, ShardRecord
from seed_dist.data.index import IndexRow
from seed_dist.data.manifest import load_manifest, write_manifest
from seed_dist.data.mapping import _FAILED, MappedFile, copy_pieces
from seed_dist.data.reader import FeatureShards, ImageShards, PairedFeatures
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.writer import npy_header, open_shard
from seed_dist.errors import DataError, MismatchError
from tests.pictures import fill

SAMPLES, PER_SHARD = 23, 5


def values(shape=(3, 4), dtype="float16", samples=SAMPLES):
    return (np.arange(samples * int(np.prod(shape))).reshape(samples, *shape) % 251).astype(dtype)


def write_set(folder, array, images="images-1", prefix="k", details=None):
    """A feature set of several shards, as the encoders write them."""
    described = {"dtype": str(array.dtype), "shape": list(array.shape[1:]), **(details or {})}
    assembly = Assembly(folder, Plan("features", {"images": images}, described))
    folder.mkdir(parents=True)
    assembly.begin()
    header, names = npy_header(array.dtype, array.shape[1:]), []
    for number, start in enumerate(range(0, len(array), PER_SHARD)):
        rows = []
        with open_shard(folder / f"shard-{number:06d}.tar") as shard:
            for i in range(start, min(start + PER_SHARD, len(array))):
                place = shard.add(f"{prefix}{i:04d}.npy", header + array[i].tobytes())
                rows.append(IndexRow(f"{prefix}{i:04d}", place.offset, place.size, place.checksum, f"c{i}", "npy"))
        assembly.announce(ShardRecord(shard.entry(len(rows)), tuple(rows)))
        names.append(shard.name)
    return assembly.commit(names, {})


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 4), "float16"), ((7,), "float32"), ((32,), "int32"), ((1, 1, 5), "float16")]
)
def test_any_selection_in_any_order(tmp_path, shape, dtype):
    array = values(shape, dtype)
    write_set(tmp_path / "s", array)
    shards = FeatureShards(tmp_path / "s")
    assert len(shards) == SAMPLES
    rng = np.random.default_rng(0)
    for ids in (np.arange(SAMPLES), rng.permutation(SAMPLES), rng.integers(0, SAMPLES, 100), np.empty(0, np.int64)):
        read = shards.read(ids)
        assert read.dtype == np.dtype(dtype)
        assert (read == array[ids]).all()
        assert read.shape == (len(ids), *shape)
    assert shards.captions[7] == "c7"
    assert shards.shard_rows(4) == range(20, 23)


def open_below(folder):
    """How many files of a folder this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by another thread since it was listed
            found += str(folder) in str(link.readlink())
    return found


def test_more_shards_than_files_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("seed_dist.data.shard_files._OPEN_FILES", 2)
    array = values()
    write_set(tmp_path / "s", array)
    shards = FeatureShards(tmp_path / "s")
    ids = np.random.default_rng(1).integers(0, SAMPLES, 200)
    for id_ in ids:
        assert (shards.read(np.array([id_]))[0] == array[id_]).all()
    assert open_below(tmp_path) == 2
    del shards
    assert open_below(tmp_path) == 0


def test_threads_may_share_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr("seed_dist.data.shard_files._OPEN_FILES", 1)
    array = values()
    write_set(tmp_path / "s", array)
    shards, wrong, done = FeatureShards(tmp_path / "s"), [], []

    def work(seed):
        batches = np.random.default_rng(seed).integers(0, SAMPLES, (300, 8))
        wrong.extend(ids for ids in batches if not (shards.read(ids) == array[ids]).all())
        done.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]
    assert wrong == []


def test_a_flipped_bit_names_shard_and_key(tmp_path):
    array = values()
    write_set(tmp_path / "s", array)
    index = FeatureShards(tmp_path / "s")._files.index
    path = tmp_path / "s" / "shard-000002.tar"
    intact = path.read_bytes()
    offset, size = int(index.offset[11]), int(index.size[11])
    positions = range(offset, offset + size, 13)
    assert len(positions) > 8
    for position in positions:  # the payload's header and its numbers
        data = bytearray(intact)
        data[position] ^= 0x04
        path.write_bytes(data)
        shards = FeatureShards(tmp_path / "s")
        with pytest.raises(
            DataError, match=r"sample k0011 in .*shard-000002.tar has checksum .*Restore shard-000002.tar"
        ):
            shards.read(np.array([3, 11, 20]))
        assert (shards.read(np.array([3, 10, 12])) == array[[3, 10, 12]]).all()  # its neighbours are intact


def test_what_was_right_before_comes_out_of_maps_and_from_wherever_it_must(tmp_path, monkeypatch):
    """In any order, with rows read for the first time among it, when maps are refused, and when pages are not there."""
    array = values()
    write_set(tmp_path / "s", array)
    shards, copied = FeatureShards(tmp_path / "s"), []
    shards.read(np.arange(0, SAMPLES, 2))

    def noted(*arguments):
        copied.append(copy_pieces(*arguments))
        return copied[-1]

    monkeypatch.setattr("seed_dist.data.shard_files.copy_pieces", noted)
    for seed in range(20):
        ids = np.random.default_rng(seed).integers(0, SAMPLES, seed)
        assert (shards.read(ids) == array[ids]).all()
    assert copied[-1] == (19, False)
    monkeypatch.setattr("seed_dist.data.shard_files.copy_pieces", lambda *arguments: (3, True))
    assert (shards.read(ids) == array[ids]).all()
    monkeypatch.setattr("seed_dist.data.shard_files.copy_pieces", noted)
    found = len(copied)
    assert (shards.read(ids) == array[ids]).all()
    assert len(copied) == found  # the disk is read for a while
    monkeypatch.setattr("seed_dist.data.mapping._libc.mmap", lambda *arguments: _FAILED)
    shards = FeatureShards(tmp_path / "s")
    shards.read(ids)
    assert (shards.read(ids) == array[ids]).all()


def test_pieces_are_copied_up_to_the_first_that_cannot_be_had(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(256)) * 64)
    file = MappedFile(os.open(tmp_path / "f", os.O_RDONLY))
    out = np.zeros((3000, 100), np.uint8)
    sources = file.address + np.arange(3000) * 5
    targets = out.ctypes.data + np.arange(3000)[::-1] * 100
    assert copy_pieces(sources, targets, 100) == (3000, False)
    assert (out[::-1] == (np.arange(3000)[:, None] * 5 + np.arange(100)) % 256).all()
    os.truncate(tmp_path / "f", 8192)
    assert copy_pieces(sources, targets, 100)[0] == (8192 - 100) // 5 + 1
    assert not file.is_whole()


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 2000, -512, -1])
def test_a_truncated_shard_is_noticed_when_the_set_is_opened(tmp_path, keep):
    write_set(tmp_path / "s", values())
    path = tmp_path / "s" / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"shard-000001.tar has \d+ bytes, but the manifest says 10240"):
        FeatureShards(tmp_path / "s")


def test_a_shard_cut_after_opening_is_an_error_not_a_crash(tmp_path):
    write_set(tmp_path / "s", values())
    shards = FeatureShards(tmp_path / "s")
    shards.read(np.array([5, 9]))
    os.truncate(tmp_path / "s" / "shard-000001.tar", 600)  # inside the page that holds both
    with pytest.raises(DataError, match=r"sample k0009 in .*shard-000001.tar ends after 0 of"):
        shards.read(np.array([9]))
    with pytest.raises(DataError, match=r"sample k0005 in .*shard-000001.tar ends after 0 of"):
        shards.read(np.array([5]))


def test_a_missing_shard_is_named(tmp_path):
    write_set(tmp_path / "s", values())
    shards = FeatureShards(tmp_path / "s")
    (tmp_path / "s" / "shard-000003.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000003.tar has vanished"):
        shards.read(np.array([17]))
    with pytest.raises(DataError, match=r"shard-000003.tar is missing"):
        FeatureShards(tmp_path / "s")


@pytest.mark.parametrize("details", [{"dtype": "float32"}, {"shape": [4, 3]}, {"shape": [12]}, {"shape": [3, 5]}])
def test_a_manifest_that_describes_other_arrays_is_refused(tmp_path, details):
    write_set(tmp_path / "s", values())
    manifest = load_manifest(tmp_path / "s")
    write_manifest(tmp_path / "s", replace(manifest, details={**manifest.details, **details}))
    with pytest.raises(DataError, match=r"holds float16 \(3, 4\), but the manifest says"):
        FeatureShards(tmp_path / "s")


def test_images_and_features_are_not_confused(tmp_path):
    write_set(tmp_path / "s", values())
    with pytest.raises(MismatchError, match=r"kind of .* is 'features', but 'images' is needed"):
        ImageShards(tmp_path / "s")


def test_a_damaged_image_is_noticed(tmp_path):
    shard_source(fill(tmp_path / "source", 8), tmp_path / "out", ShardOptions(workers=1))
    path = tmp_path / "out" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(ImageShards(tmp_path / "out")._files.index.offset[5]) + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="sample 000000005 in"):
        ImageShards(tmp_path / "out").image(5)
    assert ImageShards(tmp_path / "out").image(4).size == (12, 10)


def paired(work, **other):
    a, b = values(), values((2,), "int32")
    write_set(work / "features" / "a" / "train", a)
    write_set(work / "features" / "b" / "train", b, **other)
    return a, b


def test_sets_side_by_side(tmp_path):
    a, b = paired(tmp_path)
    both = PairedFeatures(tmp_path, "train", ("a", "b"))
    ids = np.array([22, 0, 7])
    read = both.read(ids)
    assert (read["a"] == a[ids]).all()
    assert (read["b"] == b[ids]).all()
    assert len(both) == SAMPLES
    assert both.keys[3] == "k0003"
    assert both.captions[3] == "c3"
    assert both.fingerprint != PairedFeatures(tmp_path, "train", ("a",)).fingerprint


@pytest.mark.parametrize("left_out", [[0], [22], [0, 1, 2], [3, 4, 9, 21, 22]])
def test_samples_that_some_set_lacks_are_passed_over(tmp_path, left_out):
    a, _ = paired(tmp_path, details={"quarantined": left_out[1:]})
    write_set(tmp_path / "features" / "c" / "train", a, details={"quarantined": left_out[:1]})
    both = PairedFeatures(tmp_path, "train", ("a", "b", "c"))
    kept = [row for row in range(SAMPLES) if row not in left_out]
    assert len(both) == len(kept)
    assert both.captions == [f"c{row}" for row in kept]
    assert (both.read(np.arange(len(kept)))["a"] == a[kept]).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"images": "images-2"}, "source images of .*b.train is 'images-2', but 'images-1'"),
        ({"prefix": "x"}, "keys of"),
    ],
)
def test_sets_that_do_not_belong_together_are_refused(tmp_path, other, message):
    paired(tmp_path, **other)
    with pytest.raises(MismatchError, match=message):
        PairedFeatures(tmp_path, "train", ("a", "b"))


def test_features_of_images_that_were_sharded_anew_are_refused(tmp_path):
    paired(tmp_path)
    shard_source(fill(tmp_path / "source", 3), tmp_path / "images" / "train", ShardOptions(workers=1))
    with pytest.raises(MismatchError, match=r"images in .* are others now: delete the features"):
        PairedFeatures(tmp_path, "train", ("a", "b"))


def test_a_missing_set_says_what_makes_it(tmp_path):
    with pytest.raises(DataError, match=r"features/a/train does not exist.*data_prep/encode.py"):
        PairedFeatures(tmp_path, "train", ("a",))
