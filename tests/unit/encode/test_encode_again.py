"""Broken features are encoded again by verify.py --repair, by the same code, to the same bytes."""

import json
import shutil

import pytest

from seed_dist.config import load_recipe
from seed_dist.data.manifest import load_manifest
from seed_dist.data.reader import FeatureShards
from seed_dist.data.repair import repair
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.verification import verify
from seed_dist.encode import again
from seed_dist.encode.again import encode_shards
from seed_dist.encode.clip_targets import PatchEncoder
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from tests.pictures import content, fill

SPOILED = "000000005"


def spoil(encode):
    """An encoder that gives NaN for one picture."""

    def call(self, batch):
        values = encode(self, batch)
        values[[place for place, key in enumerate(batch.keys) if key == SPOILED]] = float("nan")
        return values

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """View 1 of patches, in shards of 4 pictures and batches of 3; one picture has no features."""
    work = tmp_path_factory.mktemp("work")
    shard_source(fill(work / "s", 11), work / "images" / "train", ShardOptions(shard_samples=4, workers=1))
    asked = {"batch_size": 3, "views": 2, "device": "cpu", "max_reject_fraction": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchEncoder, "__call__", spoil(PatchEncoder.__call__))
        list(encode_workspace(EncodeRequest(load_recipe("glyphs"), work, ["patches"], ["train"], **asked)))
    return work


@pytest.fixture
def out(tmp_path, made, monkeypatch):
    monkeypatch.setattr(PatchEncoder, "__call__", spoil(PatchEncoder.__call__))
    return shutil.copytree(made, tmp_path / "work") / "features" / "patches.view1" / "train"


def mended(out):
    said = repair(out, verify(out, progress=lambda size: None), 1, encode_shards)
    return said, verify(out, progress=lambda size: None)


@pytest.mark.parametrize(
    ("broken", "how"), [("rejects.parquet", "gone"), ("shard-000000.tar shard-000002.tar index.parquet", "changed")]
)
def test_what_is_broken_is_made_again_and_nothing_else(out, broken, how):
    whole = content(out)
    names = broken.split()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name not in names}
    for name in names:
        data = bytearray((out / name).read_bytes())
        data[len(data) // 3] ^= 1
        (out / name).unlink() if how == "gone" else (out / name).write_bytes(data)
    said, left = mended(out)
    assert sorted(said) == sorted(f"{out / name} is made again" for name in names)
    assert left == []
    assert content(out) == whole
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name not in names} == before
    assert FeatureShards(out).quarantined == {5}


def test_what_would_be_other_bytes_is_refused(out, monkeypatch):
    path = out / "shard-000000.tar"
    path.write_bytes(b"")
    monkeypatch.setattr(PatchEncoder, "__call__", lambda self, batch, call=PatchEncoder.__call__: call(self, batch) + 1)
    (line,), left = mended(out)
    assert line.startswith(f"not mended: {path}: made again it has other bytes than the manifest lists")
    assert [finding.path for finding in left] == [path]
    assert path.read_bytes() == b""
    note = json.loads((out / ".source.json").read_text())
    note["recipe"]["seed"] += 1  # of the crops
    (out / ".source.json").write_text(json.dumps(note))
    assert "view.seed of" in mended(out)[0][0]
    shutil.rmtree(out.parents[2] / "images")
    assert "images/train does not exist" in mended(out)[0][0]
    assert load_manifest(out).samples == 11


def test_without_the_note_the_command_is_told(out):
    (out / ".source.json").unlink()
    (out / "shard-000001.tar").unlink()
    (line,) = repair(out, verify(out, progress=lambda size: None), 1, again.encode_shards)
    work = out.parents[2]
    assert (
        f"run data_prep/encode.py --work {work} --target patches --split train --dtype float16 --views 2 --rec" in line
    )
    assert line.endswith("and the shards shard-000001.tar are made, the others kept")
