"""A set follows its source with --update: what changed is made anew, the result is that of a fresh run."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from seed_dist.data import duplicates
from seed_dist.data.filters import Filters
from seed_dist.data.reader import ImageShards
from seed_dist.data.repair import repair
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.verification import verify
from seed_dist.errors import DataError, MismatchError
from tests.pictures import content, fill, picture

SMALL = ShardOptions(shard_samples=10, workers=1, max_reject_fraction=0.1)
UPDATE = replace(SMALL, update=True)


def table(folder, count, spoiled=None):
    """A JSON lines table of `count` pairs."""
    fill(folder / "images", count)
    lines = [
        f'{{"image": "images/{i:04d}.{"png" if i % 2 else "jpg"}", "caption": "{"" if i == spoiled else i}"}}'
        for i in range(count)
    ]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}


def kept(before, out):
    after = times(out)
    return sorted(name for name in before if after.get(name) == before[name])


def test_appended_pairs_make_only_new_shards(tmp_path):
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    shard_source(table(tmp_path, 45, spoiled=7), out, SMALL)
    before = times(out)
    grown = table(tmp_path, 62, spoiled=7)
    with pytest.raises(MismatchError, match=r"pairs of .* is 45, but 62 is needed.*--update"):
        shard_source(grown, out, SMALL)
    shard_source(grown, out, UPDATE)
    shard_source(grown, unbroken, SMALL)
    assert content(out) == content(unbroken)
    assert kept(before, out) == [f"shard-{i:06d}.tar" for i in range(4)]
    assert shard_source(grown, out, UPDATE).was_finished


def test_a_mended_and_a_shorter_source(tmp_path):
    out = tmp_path / "out"
    shard_source(table(tmp_path, 45), out, SMALL)
    before = times(out)
    (tmp_path / "images" / "0013.png").write_bytes(picture(99))
    source = table(tmp_path, 45)
    (tmp_path / "images" / "0013.png").write_bytes(picture(99))
    shard_source(source, out, UPDATE)
    assert kept(before, out) == [f"shard-{i:06d}.tar" for i in (0, 2, 3, 4)]
    lines = source.read_text().splitlines()
    source.write_text("\n".join(lines[:15]))
    shard_source(source, out, UPDATE)
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(out) == content(tmp_path / "unbroken")


def test_other_options_are_refused_with_update_too(tmp_path):
    source, out = table(tmp_path, 20), tmp_path / "out"
    shard_source(source, out, SMALL)
    with pytest.raises(MismatchError, match="shard_samples"):
        shard_source(source, out, replace(UPDATE, shard_samples=7))
    with pytest.raises(MismatchError, match=r"filters.min_side_px"):
        shard_source(source, out, replace(UPDATE, filters=Filters(min_side_px=3)))


def test_a_shard_is_made_anew_where_another_pair_became_its_original(tmp_path):
    options = replace(SMALL, filters=Filters(drop_duplicates="exact"))
    out = tmp_path / "out"
    source = table(tmp_path, 30)
    (tmp_path / "images" / "0025.png").write_bytes(picture(2, "JPEG"))  # that of 0002.jpg
    assert shard_source(source, out, options).manifest.samples == 29
    (tmp_path / "images" / "0002.jpg").write_bytes(picture(77, "JPEG"))
    assert shard_source(source, out, replace(options, update=True)).manifest.samples == 30
    shard_source(source, tmp_path / "unbroken", options)
    assert content(out) == content(tmp_path / "unbroken")


@pytest.mark.parametrize("point", ["shard.announced:*:5:kill", "assembly.index_written:*:7:kill"])
def test_a_killed_update_goes_on(root, tmp_path, point):
    out = tmp_path / "out"
    shard_source(table(tmp_path, 45), out, SMALL)
    source = table(tmp_path, 62)
    command = [sys.executable, str(root / "data_prep" / "shard.py"), str(source), str(out), "--shard-samples", "10"]
    environment = {**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": point}
    run = subprocess.run([*command, "--update", "--workers", "1"], env=environment, capture_output=True, check=False)
    assert run.returncode == -9
    with pytest.raises(DataError, match="not finished"):
        ImageShards(out)
    shard_source(source, out, SMALL)
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(out) == content(tmp_path / "unbroken")


def test_pictures_that_are_known_are_not_looked_at_again(tmp_path, monkeypatch):
    """By --update and --repair, with --drop-duplicates: slices of 10, of which new ones and those that grew are."""
    looked, original = [], duplicates.write_prints
    monkeypatch.setattr(duplicates, "write_prints", lambda task: (looked.append(task.number), original(task)))
    options = replace(SMALL, filters=Filters(drop_duplicates="perceptual"))
    out, source = tmp_path / "out", table(tmp_path, 45)
    shard_source(source, out, options)
    source = table(tmp_path, 62)
    (tmp_path / "images" / "0061.png").write_bytes(picture(3))
    shard_source(source, out, replace(options, update=True))
    assert looked == [0, 1, 2, 3, 4, 4, 5, 6]
    whole = content(out)
    (out / "shard-000002.tar").unlink()
    damaged = next(path for path in (out / ".prints").iterdir() if path.stat().st_size > 200)
    damaged.write_bytes(damaged.read_bytes()[:-60])
    repair(out, verify(out, progress=lambda size: None), 1, encode=None)
    assert len(looked) == 8 + 1  # the fingerprints that are damaged
    assert content(out) == whole
    assert shard_source(source, tmp_path / "unbroken", options).manifest.details["filtered"] == {"duplicate_image": 1}
    assert content(tmp_path / "unbroken") == whole
