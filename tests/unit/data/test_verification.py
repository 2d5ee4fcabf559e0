"""Every kind of damage to a finished set is found, named, and mended without touching anything else."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_dist.data.index import Index
from seed_dist.data.manifest import load_manifest, write_manifest
from seed_dist.data.reject_list import REJECT_DIGESTS
from seed_dist.data.repair import repair as repair_set
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.verification import ShardCheck, check_shard, verify
from tests.pictures import content, fill, picture

OPTIONS = ShardOptions(shard_samples=3, workers=1, max_reject_fraction=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source of 7 pairs, one of them damaged and one with two captions, and the set made from it."""
    folder = tmp_path_factory.mktemp("made")
    source = folder / "source"
    fill(source / "images", 7)
    (source / "images" / "0004.jpg").write_bytes(b"<html>")
    rows = [{"image": f"images/{i:04d}.{'png' if i % 2 else 'jpg'}", "captions": [f"caption {i}"]} for i in range(7)]
    rows[1]["captions"].append("another caption")
    (source / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shard_source(source / "table.jsonl", folder / "out", OPTIONS)
    return folder


@pytest.fixture
def out(made):
    """The set, whole at the beginning and at the end of the test, whatever happens to it meanwhile."""
    kept = made / "kept"
    shutil.copytree(made / "out", kept)
    yield made / "out"
    shutil.rmtree(made / "out")
    kept.rename(made / "out")


def repair(out, findings, workers):
    return repair_set(out, findings, workers, encode=None)


def found(out, **options):
    return verify(out, progress=lambda size: None, **options)


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_nothing_is_wrong_with_an_intact_set(out):
    assert found(out) == found(out, quick=True) == found(out, workers=2) == []


def misnamed(path, column):
    """The bytes of a parquet file in which a column's name is no text."""
    return path.read_bytes().replace(column, b"\xc7" + column[1:])


def exchanged(path, column):
    """A good parquet file with another text in a column."""
    table = pq.read_table(path)
    other = pa.array(["other"] * len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), column, other), path)


DAMAGES = {
    "missing shard": ("shard-000001.tar", lambda p: p.unlink(), "it is missing"),
    "longer shard": ("shard-000001.tar", lambda p: p.write_bytes(p.read_bytes() + bytes(512)), "bytes, the manifest"),
    "swapped shard": ("shard-000001.tar", lambda p: shutil.copy(p.with_name("shard-000000.tar"), p), "manifest"),
    "extra shard": ("shard-000009.tar", lambda p: p.write_bytes(b""), "the manifest does not list it"),
    "partial": ("shard-000001.tar.0a.partial", lambda p: p.write_bytes(b""), "the manifest does not list it"),
    "missing index": ("index.parquet", lambda p: p.unlink(), "is missing"),
    "cut index": ("index.parquet", lambda p: p.write_bytes(p.read_bytes()[:-9]), "cannot be read"),
    "missing rejects": ("rejects.parquet", lambda p: p.unlink(), "it is missing"),
    "damaged rejects": ("rejects.parquet", lambda p: p.write_bytes(p.read_bytes()[:-1]), "it cannot be read"),
    "no UTF-8 in rejects": ("rejects.parquet", lambda p: p.write_bytes(misnamed(p, b"detail")), "it cannot be read"),
    "no UTF-8 in index": ("index.parquet", lambda p: p.write_bytes(misnamed(p, b"checksum")), "cannot be read"),
    "other rejects": ("rejects.parquet", lambda p: exchanged(p, "detail"), "columns detail are not those"),
    "damaged manifest": ("manifest.json", lambda p: p.write_text(p.read_text().replace(": 6", ": 5")), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_only_that_is_mended(out, damage):
    name, spoil, message = DAMAGES[damage]
    whole, before = content(out), times(out)
    spoil(out / name)
    findings = found(out)
    assert [finding.path.name for finding in findings] == [name]
    assert message in findings[0].what
    repair(out, findings, 1)
    assert found(out) == []
    assert content(out) == whole
    kept = set(before) - {name}
    assert damage == "damaged manifest" or {n: times(out)[n] for n in kept} == {n: before[n] for n in kept}


def test_a_set_of_an_earlier_version_has_no_digests_of_its_rejects_and_is_intact(made, out):
    manifest = load_manifest(out)
    details = {name: value for name, value in manifest.details.items() if name != REJECT_DIGESTS}
    write_manifest(out, replace(manifest, details=details))
    rows = pq.read_table(out / "rejects.parquet")
    pq.write_table(rows.cast(pa.schema([(name, pa.string()) for name in rows.column_names])), out / "rejects.parquet")
    assert found(out) == []
    assert shard_source(made / "source" / "table.jsonl", out, replace(OPTIONS, update=True)).was_finished


def test_every_cut_at_a_block_is_found_and_mended(out):
    path = out / "shard-000001.tar"
    whole, before = path.read_bytes(), times(out)
    for size in range(0, len(whole), 512):
        path.write_bytes(whole[:size])
        (finding,) = found(out)
        assert finding.path == path
        assert finding.what == f"it has {size} bytes, the manifest says {len(whole)}"
    repair(out, found(out), 1)
    assert path.read_bytes() == whole
    assert {**times(out), path.name: 0} == {**before, path.name: 0}


def test_every_flipped_byte_of_a_shard_is_found(made, tmp_path):
    """And where the payload is hit, the sample is named."""
    manifest = load_manifest(made / "out")
    index, (entry, *_) = Index(made / "out", manifest), reversed(manifest.shards)
    assert entry.samples == 1
    columns = (index.keys[-1:], index.exts[-1:], index.offset[-1:], index.size[-1:], index.checksum[-1:])
    path = tmp_path / entry.name
    whole = (made / "out" / entry.name).read_bytes()
    check = ShardCheck(path, entry, "images", columns)
    path.write_bytes(whole)
    assert check_shard(check) == []
    last = len(index) - 1
    payload = range(int(index.offset[last]), int(index.offset[last] + index.size[last]))
    random = np.random.default_rng(0)
    with path.open("r+b") as file:
        for at in range(len(whole)):
            file.seek(at)
            file.write(bytes([whole[at] ^ 1 << int(random.integers(8))]))
            file.flush()
            (finding,) = check_shard(check)
            assert "its SHA-256 is not the manifest's" in finding.what
            assert at not in payload or f"sample {index.keys[-1]} has checksum" in finding.what
            file.seek(at)
            file.write(whole[at : at + 1])


def test_what_cannot_be_mended_is_said_and_left(made, out):
    path = out / "shard-000000.tar"
    path.write_bytes(b"")
    (made / "source" / "images" / "0001.png").rename(made / "elsewhere.png")
    try:
        (line,) = repair(out, found(out), 1)
        assert line == f"not mended: {path}: its pairs in the source have changed since. Bring them back, or --update."
        (made / "source").rename(made / "gone")
        (line,) = repair(out, found(out), 1)
        assert ".source.json names cannot be read" in line
        assert "table.jsonl does not exist" in line
        (made / "gone").rename(made / "source")
    finally:
        (made / "elsewhere.png").rename(made / "source" / "images" / "0001.png")
    assert path.read_bytes() == b""
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".source.json"]


def test_a_foreign_file_is_named_and_stays(out):
    (out / "notes.txt").write_text("mine")
    assert "it is no part of a set. Move it elsewhere." in str(found(out)[0])
    assert repair(out, found(out), 1) == []
    assert (out / "notes.txt").read_text() == "mine"


def test_the_command_says_everything_and_mends_it(root, out):
    whole = content(out)
    (out / "shard-000000.tar").unlink()
    (out / "index.parquet").write_bytes(b"PAR1")
    (out / "shard-000007.tar").write_bytes(picture(1))

    def run(*options):
        command = [sys.executable, str(root / "data_prep" / "verify.py"), str(out), *options]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)

    for option in ("--quick", "--workers=2"):
        broken = run(option)
        assert broken.returncode == 3
        lines = broken.stdout.splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            str(out / name) for name in ("index.parquet", "shard-000000.tar", "shard-000007.tar")
        ]
        assert all("With --repair it is" in line for line in lines)
        assert "1 of 1 sets are not intact" in broken.stderr
    mended = run("--repair")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert f"{out} is intact: 6 samples in 3 shards, every byte is as it was written" in mended.stdout
    assert content(out) == whole
