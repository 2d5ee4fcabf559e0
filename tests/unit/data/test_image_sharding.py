"""From a source to a finished set: what is in it, that everybody's tools read it, and that reruns change nothing."""

import os
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from seed_dist.data.image_shard import checked_caption
from seed_dist.data.manifest import load_manifest
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import sha256_file
from tests.pictures import content, fill, picture

SMALL = ShardOptions(shard_samples=10, workers=1)
LENIENT = ShardOptions(shard_samples=10, workers=1, max_reject_fraction=1.0)


def rejects(out):
    return [tuple(row.values())[:3] for row in pq.read_table(out / "rejects.parquet").to_pylist()]


@pytest.fixture
def source(tmp_path):
    return fill(tmp_path / "source", 25)


def test_every_pair_arrives_unchanged(tmp_path, source):
    outcome = shard_source(source, tmp_path / "out", SMALL)
    assert not outcome.was_finished
    shards = ImageShards(tmp_path / "out")
    assert shards.manifest == outcome.manifest == load_manifest(tmp_path / "out")
    assert len(shards) == 25
    assert shards.keys == [f"{i:09d}" for i in range(25)]
    for i in range(25):
        name = f"{i:04d}.{'png' if i % 2 else 'jpg'}"
        assert shards.image_bytes(i) == (source / name).read_bytes()
        assert shards.captions[i] == f"caption number {i}"
    assert [shards.shard_rows(n) for n in range(3)] == [range(10), range(10, 20), range(20, 25)]
    assert rejects(tmp_path / "out") == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".source.json", "index.parquet", "manifest.json", "rejects.parquet",
        "shard-000000.tar", "shard-000001.tar", "shard-000002.tar",
    ]  # fmt: skip


def test_the_manifest_tells_size_and_hash_of_each_shard(tmp_path, source):
    manifest = shard_source(source, tmp_path / "out", SMALL).manifest
    assert [entry.samples for entry in manifest.shards] == [10, 10, 5]
    for entry in manifest.shards:
        path = tmp_path / "out" / entry.name
        assert (entry.size_bytes, entry.sha256) == (path.stat().st_size, sha256_file(path))


def test_tar_reads_the_shards(tmp_path, source):
    shard_source(source, tmp_path / "out", SMALL)
    with tarfile.open(tmp_path / "out" / "shard-000001.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:4]] == ["000000010.jpg", "000000010.txt", "000000011.png", "000000011.txt"]
        assert len(members) == 20
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode, m.type) for m in members} == {(0, 0, 0, "", 0o644, b"0")}
        assert tar.extractfile("000000011.txt").read() == b"caption number 11"


def test_the_index_points_at_the_image_in_the_tar(tmp_path, source):
    shard_source(source, tmp_path / "out", SMALL)
    row = pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()[13]
    data = (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
    assert data == (source / "0013.png").read_bytes()


def test_plain_webdataset_reads_the_shards(tmp_path, source):
    shard_source(source, tmp_path / "out", SMALL)
    pattern = str(tmp_path / "out" / "shard-{000000..000002}.tar")
    samples = list(
        webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg;png", "txt")
    )
    assert [key for key, _, _ in samples] == [f"{i:09d}" for i in range(25)]
    assert [text for _, _, text in samples] == [f"caption number {i}" for i in range(25)]
    assert all(image.size == (12, 10) for _, image, _ in samples)


def test_workers_do_not_change_the_bytes(tmp_path, source):
    shard_source(source, tmp_path / "one", SMALL)
    shard_source(source, tmp_path / "two", ShardOptions(shard_samples=10, workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_finished_set_is_left_as_it_is(tmp_path, source):
    out = tmp_path / "out"
    first = shard_source(source, out, SMALL)
    before = content(out), {path: path.stat().st_mtime_ns for path in out.glob("[!.]*")}
    again = shard_source(source, out, ShardOptions(shard_samples=10, workers=2, max_reject_fraction=0.5))
    assert again.was_finished
    assert again.manifest == first.manifest
    assert (content(out), {path: path.stat().st_mtime_ns for path in out.glob("[!.]*")}) == before


def test_the_same_pairs_elsewhere_give_the_same_set(tmp_path, source):
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    shard_source(source, tmp_path / "out1", SMALL)
    shard_source(tmp_path / "copy", tmp_path / "out2", SMALL)
    assert content(tmp_path / "out1") == content(tmp_path / "out2")


def test_another_source_or_another_option_is_refused(tmp_path, source):
    out = tmp_path / "out"
    shard_source(source, out, SMALL)
    before = content(out)
    with pytest.raises(MismatchError, match=r"shard_samples of .*out is 10, but 12 is needed.*choose another folder"):
        shard_source(source, out, ShardOptions(shard_samples=12, workers=1))
    (source / "0003.txt").write_text("another caption")
    with pytest.raises(MismatchError, match=r"source of .*out is '\w{16}', but '\w{16}' is needed"):
        shard_source(source, out, SMALL)
    assert content(out) == before


def test_an_unfinished_set_of_another_source_is_refused_too(tmp_path, source):
    (source / "0003.txt").write_text(" ")
    with pytest.raises(DataError, match="max-reject-fraction"):
        shard_source(source, tmp_path / "out", SMALL)
    (source / "0003.txt").write_text("mended")
    with pytest.raises(MismatchError, match="source of"):
        shard_source(source, tmp_path / "out", SMALL)


def test_a_folder_with_other_files_is_refused(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"holds other files \(thesis.tex\): choose a new or empty folder"):
        shard_source(source, tmp_path / "out", SMALL)
    with pytest.raises(DataError, match="same folder"):
        shard_source(source, source, SMALL)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["thesis.tex"]


def test_a_set_that_lost_a_shard_is_not_called_finished(tmp_path, source):
    out = tmp_path / "out"
    shard_source(source, out, SMALL)
    (out / "shard-000001.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar is missing. Restore it"):
        shard_source(source, out, SMALL)


BAD = {
    "empty_caption": lambda s: (s / "0001.txt").write_text(" \n\t"),
    "caption_not_utf8": lambda s: (s / "0002.txt").write_bytes(b"caf\xe9"),
    "caption_too_long": lambda s: (s / "0003.txt").write_text("x" * 70_000),
    "unreadable_image": lambda s: (s / "0004.jpg").write_bytes(b"<html>"),
    "missing_caption": lambda s: (s / "0005.txt").unlink(),
    "duplicate_name": lambda s: (s / "0006.png").write_bytes(picture(0)),
    "missing_image": lambda s: (s / "0007.png").unlink(),
    "image_too_small": lambda s: (s / "0008.jpg").write_bytes(picture(0, "JPEG", (1, 1))),
}


def test_each_bad_pair_is_listed_with_its_reason_and_the_others_arrive(tmp_path, source):
    for spoil in BAD.values():
        spoil(source)
    manifest = shard_source(source, tmp_path / "out", LENIENT).manifest
    listed = rejects(tmp_path / "out")
    assert {source: reason for source, reason, _ in listed} == {
        "0001.png": "empty_caption",
        "0002.jpg": "caption_not_utf8",
        "0003.png": "caption_too_long",
        "0004.jpg": "unreadable_image",
        "0005.png": "missing_caption",
        "0006.png": "duplicate_name",
        "0007.txt": "missing_image",
        "0008.jpg": "image_too_small",
    }
    assert all(detail for _, _, detail in listed)
    assert manifest.details["rejected"] == dict.fromkeys(sorted(BAD), 1)
    assert manifest.samples + len(listed) == manifest.details["pairs"] == 26
    kept = [0, 6, *range(9, 25)]
    assert ImageShards(tmp_path / "out").captions == [f"caption number {i}" for i in kept]


@pytest.mark.parametrize("reason", BAD)
def test_one_bad_pair_of_25_is_above_one_percent(tmp_path, source, reason):
    BAD[reason](source)
    with pytest.raises(DataError) as caught:
        shard_source(source, tmp_path / "out", SMALL)
    message = str(caught.value)
    for part in (f"({reason} 1)", "--max-reject-fraction 0.01 allows 0 of", "rejects.parquet"):
        assert part in message
    assert [row[1] for row in rejects(tmp_path / "out")] == [reason]
    with pytest.raises(DataError, match="not finished"):
        load_manifest(tmp_path / "out")
    allowed = shard_source(
        source, tmp_path / "out", ShardOptions(shard_samples=10, workers=1, max_reject_fraction=0.04)
    )
    assert allowed.manifest.details["rejected"] == {reason: 1}


def test_a_source_without_a_usable_pair_is_an_error_at_any_budget(tmp_path):
    source = fill(tmp_path / "s", 3)
    for path in source.glob("*.txt"):
        path.write_text("")
    with pytest.raises(DataError, match="no usable pair is left"):
        shard_source(source, tmp_path / "out", LENIENT)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_shard_without_usable_pairs_is_left_out(tmp_path, source):
    for i in range(10, 20):
        (source / f"{i:04d}.txt").write_text("")
    manifest = shard_source(source, tmp_path / "out", LENIENT).manifest
    assert [entry.name for entry in manifest.shards] == ["shard-000000.tar", "shard-000002.tar"]
    assert not (tmp_path / "out" / "shard-000001.tar").exists()
    shards = ImageShards(tmp_path / "out")
    assert shards.keys[9:11] == ["000000009", "000000020"]
    assert shards.image_bytes(10) == (source / "0020.jpg").read_bytes()


@pytest.mark.parametrize(
    ("raw", "caption"),
    [
        (b"plain", "plain"),
        (b"  two\n\nlines\t and\r\n more ", "two lines and more"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        (b"nul\0and bell\x07", "nul and bell"),
        ("naïve — 猫 👩‍🚀".encode(), "naïve — 猫 👩‍🚀"),
        ("\u00a0no\u00a0break".encode(), "no break"),
    ],
)
def test_captions_are_normalised(raw, caption):
    assert checked_caption(raw) == caption


def test_images_from_parquet_cells_arrive(tmp_path):
    data = [picture(i) for i in range(12)]
    table = pa.table({"image": [*data[:5], None, *data[6:]], "caption": [f"c{i}" for i in range(12)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    shard_source(
        tmp_path / "a.parquet", tmp_path / "out", ShardOptions(shard_samples=5, workers=1, max_reject_fraction=0.1)
    )
    shards = ImageShards(tmp_path / "out")
    assert [shards.image_bytes(i) for i in range(11)] == [*data[:5], *data[6:]]
    assert rejects(tmp_path / "out") == [("a.parquet:6", "missing_image", "the image column is empty in this row")]


def test_images_named_by_a_table_arrive(tmp_path):
    images = tmp_path / "s" / "images"
    fill(images, 4)
    for path in images.glob("*.txt"):
        path.unlink()
    (tmp_path / "s" / "t.csv").write_text(
        "image,caption\nimages/0001.png,one\nimages/none.png,gone\nimages/0002.jpg,two\n"
    )
    shard_source(tmp_path / "s", tmp_path / "out", LENIENT)
    shards = ImageShards(tmp_path / "out")
    assert shards.captions == ["one", "two"]
    assert shards.image_bytes(1) == (images / "0002.jpg").read_bytes()
    assert rejects(tmp_path / "out")[0][:2] == ("t.csv:3: images/none.png", "missing_image")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_a_reject(tmp_path, source):
    (source / "0000.jpg").chmod(0)
    shard_source(source, tmp_path / "out", LENIENT)
    assert [row[:2] for row in rejects(tmp_path / "out")] == [("0000.jpg", "unreadable_image")]
