"""Manifest and index: what is written comes back, and nothing damaged does."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_dist.data.index import DIGESTS, Even, Index, IndexRow, file_digests, write_index
from seed_dist.data.manifest import Manifest, ShardEntry, load_manifest, write_manifest
from seed_dist.errors import DataError

ROWS = [IndexRow(f"{i:09d}", 512 + 1024 * i, 100 + i, 2**32 - 1 - i, f"caption é {i}", "png") for i in range(5)]


def write_set(folder):
    folder.mkdir(exist_ok=True)
    digests = write_index(folder, [("shard-000000.tar", ROWS[:3]), ("shard-000001.tar", ROWS[3:])])
    entries = (ShardEntry("shard-000000.tar", 3, 10240, "0" * 64), ShardEntry("shard-000001.tar", 2, 10240, "1" * 64))
    manifest = Manifest("images", 5, entries, {"source": "abc"}, {"shard_samples": 3, DIGESTS: digests})
    write_manifest(folder, manifest)
    return manifest


def test_what_is_written_comes_back(tmp_path):
    manifest = write_set(tmp_path)
    loaded = load_manifest(tmp_path)
    assert loaded == manifest
    assert loaded.fingerprint == manifest.fingerprint
    index = Index(tmp_path, loaded)
    assert index.keys == [row.key for row in ROWS]
    assert index.captions == [row.caption for row in ROWS]
    assert index.shard[:].tolist() == [0, 0, 0, 1, 1]
    assert index.checksum.tolist() == [row.checksum for row in ROWS]
    assert pq.read_table(tmp_path / "index.parquet").column_names == [
        "key", "shard", "offset", "size", "checksum", "caption", "ext", "other_captions"
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [None, 1, 3, 6])
def test_places_are_kept_as_they_are_whether_even_or_not(tmp_path, monkeypatch, odd):
    """Two numbers per shard where sizes are equal, wherever the pieces of the file end; else one per sample."""
    monkeypatch.setattr("seed_dist.data.index._GROUP_ROWS", 2)
    rows = [IndexRow(f"{i}", 512 + 1024 * i, 99 if i == odd else 100, i, "c", "npy") for i in range(7)]
    parts = [rows[:3], rows[3:4], rows[4:]]
    shards = [(f"shard-{number:06d}.tar", part) for number, part in enumerate(parts)]
    entries = tuple(ShardEntry(name, len(part), 10240, "0" * 64) for name, part in shards)
    manifest = Manifest("features", 7, entries, {}, {DIGESTS: write_index(tmp_path, shards)})
    index = Index(tmp_path, manifest)
    assert isinstance(index.offset, Even)
    assert isinstance(index.size, Even) == (odd in (None, 3))  # a shard of one sample is always even
    assert index.one_size == (100 if odd is None else None)
    for ids in (slice(None), slice(2, -1), np.array([6, 0, 3, 3])):
        assert index.offset[ids].tolist() == [row.offset for row in np.array(rows, object)[ids]]
        assert index.size[ids].tolist() == [row.size for row in np.array(rows, object)[ids]]
    assert [int(index.shard[row]) for row in range(7)] == [0, 0, 0, 1, 2, 2, 2]


def test_the_fingerprint_sees_every_field(tmp_path):
    manifest = write_set(tmp_path)
    entry = replace(manifest.shards[1], sha256="2" * 64)
    others = [
        replace(manifest, kind="features"),
        replace(manifest, parents={"source": "abd"}),
        replace(manifest, details={**manifest.details, "shard_samples": 4}),
        replace(manifest, shards=(manifest.shards[0], entry)),
    ]
    assert len({m.fingerprint for m in [manifest, *others]}) == 5


@pytest.mark.parametrize("damage", ["cut", "edited", "empty", "other"])
def test_a_damaged_manifest_is_refused(tmp_path, damage):
    write_set(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    path.write_text({"cut": text[:-20], "edited": text.replace("abc", "abd"), "empty": "", "other": "[]"}[damage])
    with pytest.raises(DataError, match=r"manifest.json is damaged: .*delete .* and make it again"):
        load_manifest(tmp_path)


def test_another_format_is_refused(tmp_path):
    write_set(tmp_path)
    values = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**values, "format": 2}))
    with pytest.raises(DataError, match="has format 2, and this version reads format 1"):
        load_manifest(tmp_path)


def test_an_unfinished_folder_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"exists but is not finished.*data_prep/shard.py"):
        load_manifest(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_manifest(tmp_path / "none")


def test_an_index_of_another_set_is_refused(tmp_path):
    manifest = write_set(tmp_path)
    write_index(tmp_path, [("shard-000000.tar", ROWS[:3]), ("shard-000001.tar", [ROWS[3], replace(ROWS[4], size=7)])])
    with pytest.raises(DataError, match=r"column 'size' has digest .*the manifest says"):
        Index(tmp_path, manifest)


def test_captions_of_another_set_are_refused_when_they_are_used(tmp_path):
    manifest = write_set(tmp_path)
    rows = [replace(row, caption=row.caption.upper()) for row in ROWS]
    write_index(tmp_path, [("shard-000000.tar", rows[:3]), ("shard-000001.tar", rows[3:])])
    index = Index(tmp_path, manifest)
    assert len(index.keys) == 5
    with pytest.raises(DataError, match="column 'caption'"):
        _ = index.captions


def test_flipped_bits_in_the_index_never_pass(tmp_path):
    manifest = write_set(tmp_path)
    path = tmp_path / "index.parquet"
    intact = path.read_bytes()
    expected = Index(tmp_path, manifest)
    refused = 0
    for position in range(0, len(intact), 7):
        data = bytearray(intact)
        data[position] ^= 0x10
        path.write_bytes(data)
        try:
            index = Index(tmp_path, manifest)
            assert (index.keys, index.captions) == (expected.keys, expected.captions)
            assert index.offset[:].tolist() == expected.offset[:].tolist()
        except DataError:
            refused += 1
    assert refused > 50  # the others hit bytes without meaning here, such as statistics


def test_a_digest_does_not_depend_on_chunks(tmp_path):
    values = [f"k{i}" for i in range(10)]

    def digest(texts, rows_in_group):
        path = tmp_path / "column.parquet"
        pq.write_table(pa.table({"key": pa.array(texts, pa.large_string())}), path, row_group_size=rows_in_group)
        return file_digests(path)["key"]

    assert digest(values, 10) == digest(values, 3)
    assert digest(values, 10) != digest(["k", "0k1", *values[2:]], 10)
