"""What filters leave out is counted and named, and is never taken for damage; duplicates by file and by look."""

import io
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from seed_dist.data.duplicates import difference_hash, first_copies
from seed_dist.data.filters import Filters
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import content, fill, picture


def add(folder, name, data, caption="a caption"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(data)
    (folder / f"{name}.txt").write_text(caption)


def options(workers=1, shard_samples=10, **filters):
    return ShardOptions(shard_samples, max_reject_fraction=0, workers=workers, filters=Filters(**filters))


def reasons(out):
    return {row["source"]: row["reason"] for row in pq.read_table(out / "rejects.parquet").to_pylist()}


@pytest.mark.parametrize(
    ("filters", "reason", "dropped"),
    [
        ({"min_side_px": 10}, "small_image", {"small"}),
        ({"min_side_px": 9}, "small_image", set()),
        ({"max_aspect": 2}, "long_image", {"long"}),
        ({"max_aspect": 3}, "long_image", set()),
        ({"min_caption_chars": 3}, "short_caption", {"short"}),
        ({"max_caption_words": 4}, "long_caption", {"wordy"}),
    ],
)
def test_each_filter_at_its_border(tmp_path, filters, reason, dropped):
    source = tmp_path / "s"
    add(source, "good", picture(0, size=(20, 20)), "four words are good")
    add(source, "small", picture(1, size=(20, 9)), "four words are good") if "min_side_px" in filters else None
    add(source, "long", picture(2, size=(60, 20)), "four words are good")
    add(source, "short", picture(3, size=(20, 20)), "ab")
    add(source, "wordy", picture(4, size=(20, 20)), "here are now five words")
    manifest = shard_source(source, tmp_path / "out", options(**filters)).manifest
    assert reasons(tmp_path / "out") == {f"{name}.png": reason for name in dropped}
    assert manifest.details["filtered"] == ({reason: len(dropped)} if dropped else {})
    assert manifest.details["rejected"] == {}
    assert manifest.samples + len(dropped) == manifest.details["pairs"]


def test_equal_files_are_stored_once_and_the_first_usable_one_stays(tmp_path):
    source = fill(tmp_path / "s", 30)
    twin = (source / "0004.jpg").read_bytes()
    for name in ("0001x", "0017x", "zz"):
        add(source, name, twin)
    (source / "0001x.txt").write_text(" ")  # damaged otherwise: nobody's original
    lenient = ShardOptions(10, max_reject_fraction=0.1, workers=1, filters=Filters(drop_duplicates="exact"))
    manifest = shard_source(source, tmp_path / "out", lenient).manifest
    assert manifest.details["filtered"] == {"duplicate_image": 2}
    assert manifest.details["rejected"] == {"empty_caption": 1}
    assert reasons(tmp_path / "out")["zz.png"] == "duplicate_image"
    shards = ImageShards(tmp_path / "out")
    assert [shards.image_bytes(i) for i in range(30)].count(twin) == 1
    assert not list((tmp_path / "out").glob(".progress"))


def test_duplicates_are_the_same_for_any_workers_and_after_a_kill(root, tmp_path):
    source = fill(tmp_path / "s", 25)
    for i in (3, 12, 21):
        add(source, f"copy{i}", (source / "0000.jpg").read_bytes())
    dropping = ["--drop-duplicates", "exact", "--shard-samples", "10"]
    command = [sys.executable, str(root / "data_prep" / "shard.py"), str(source), str(tmp_path / "out"), *dropping]
    for fault, code in (("duplicates.prints_written:*:1:kill", -9), ("", 0)):
        environment = {**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": fault}
        run = subprocess.run([*command, "--workers", "1"], env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == code, run.stderr
    assert "duplicate_image               3  left out" in run.stdout
    shard_source(source, tmp_path / "two", options(2, drop_duplicates="exact"))
    assert content(tmp_path / "out") == content(tmp_path / "two")


def scene(seed, size=(160, 120)):
    """A picture with large shapes, as photographs have them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def altered(image):
    """What copies on the web went through."""
    for quality, size in ((90, (160, 120)), (50, (160, 120)), (80, (120, 90)), (80, (320, 240))):
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
        yield Image.open(buffer)


def test_pictures_that_look_the_same_are_found_and_others_are_not():
    prints, groups = [], []
    for seed in range(60):
        image = scene(seed)
        for copy in (image, *altered(image)):
            prints.append(np.frombuffer(difference_hash(copy), np.uint8))
            groups.append(seed)
    earlier = first_copies(np.stack(prints), np.ones(len(prints), bool), 3)
    copies = np.arange(len(prints)) % 5 != 0
    assert (earlier[~copies] == -1).all()  # no picture is taken for another
    found = earlier[copies] >= 0
    assert found.mean() > 0.95
    assert all(
        groups[i] == groups[j] for i, j in zip(np.flatnonzero(copies)[found], earlier[copies][found], strict=True)
    )


@pytest.mark.parametrize("near_bits", [0, 3])
def test_copies_are_those_of_the_plain_definition(near_bits):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, 16), dtype=np.uint8)
    prints = base[rng.integers(0, 40, 300)]
    for row in prints:
        for bit in rng.integers(0, 128, rng.integers(0, 6)):
            row[bit // 8] ^= 1 << (bit % 8)
    usable = rng.random(300) > 0.1
    bits = np.unpackbits(prints, axis=1).astype(int)
    expected = np.full(300, -1)
    for i in np.flatnonzero(usable):
        near = [j for j in np.flatnonzero(usable[:i]) if np.abs(bits[i] - bits[j]).sum() <= near_bits]
        if near:
            expected[i] = near[0] if expected[near[0]] < 0 else expected[near[0]]
    assert ((expected >= 0) == (first_copies(prints, usable, near_bits) >= 0)).all()
    assert (10 if near_bits == 0 else 100) < (expected >= 0).sum() < 270
    stays = first_copies(prints, usable, near_bits)
    assert (stays[stays[stays >= 0]] == -1).all()  # what is named is in the set


def test_a_perceptual_copy_is_left_out(tmp_path):
    original = scene(1)
    for number, image in enumerate((original, scene(2), *altered(original))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        add(tmp_path / "s", str(number), buffer.getvalue())
    shard_source(tmp_path / "s", tmp_path / "out", options(drop_duplicates="perceptual"))
    assert ImageShards(tmp_path / "out").keys == ["000000000", "000000001"]
