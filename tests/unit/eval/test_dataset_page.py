"""The page about a data set: complete, escaped, the same for the same seed, honest about what was left out."""

import subprocess
import sys

from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.eval.page.dataset import render_dataset
from seed_dist.page import charts
from tests.pictures import fill, picture
from tests.unit.eval.test_page import outline


def made(tmp_path):
    source = fill(tmp_path / "source", 30)
    (source / "0000.txt").write_text("<script>alert(1)</script> & more")
    (source / "0003.txt").write_text("")
    (source / "0004.jpg").write_bytes(picture(0, "JPEG", (300, 200)))
    (source / "0005.png").write_bytes(b"<html>")
    shard_source(source, tmp_path / "set", ShardOptions(shard_samples=10, workers=1, max_reject_fraction=0.1))
    return tmp_path / "set"


def test_the_page_shows_pictures_sizes_and_what_was_left_out(tmp_path):
    page = render_dataset(made(tmp_path), samples=100, measured=100, seed=0)
    found = outline(page)
    assert (found.faults, found.open) == ([], [])
    assert found.ids == ["sizes", "pictures", "rejects"]
    assert len(found.images) == 28
    assert all(image["src"].startswith("data:image/") for image in found.images)
    assert [image["alt"] for image in found.images][:2] == ["<script>alert(1)</script> & more", "caption number 1"]
    assert "script" not in found.elements
    assert found.links == []
    assert "28 pictures with captions in 3 shards" in page
    assert "2 of 30 pairs are not among them" in page
    assert "300 × 200" in page
    for reason, name in (("empty_caption", "0003.png"), ("unreadable_image", "0005.png")):
        assert f'<th scope="row">{reason}</th><td>1</td><td>3.3 %</td><td>damage</td>' in page
        assert f"<code>{name}</code>" in page
    assert "Shorter side. From 10 to 200, median 10." in page


def test_the_seed_decides_which_pictures_are_drawn(tmp_path):
    folder = made(tmp_path)
    pages = [render_dataset(folder, samples=5, measured=5, seed=seed) for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]
    assert "Of 5 pictures that were drawn." in pages[0]


def test_a_histogram_counts_every_value_once():
    page = charts.histogram([1.0, 1.0, 2.0, 5.0], "T", "x", "y", bins=4)
    area = outline(page)
    assert area.faults == []
    assert "T. From 1 to 5, median 2." in page
    heights = [float(part.split("H")[0]) for part in page.partition(' d="M')[2].partition('Z"')[0].split("V")[1:]]
    base, *tops, _ = [heights[-1], *heights[0:-1], 0]
    counts = [round((base - top) / (base - min(tops)) * 2) for top in tops]
    assert counts == [2, 1, 0, 1]
    assert "nothing to show" in charts.histogram([], "T", "x", "y")
    assert outline(charts.histogram([3.0, 3.0], "T", "x", "y")).faults == []


def test_the_command_writes_the_page(root, tmp_path):
    folder, out = made(tmp_path), tmp_path / "page.html"
    command = [sys.executable, str(root / "data_prep" / "preview.py"), str(folder), str(out), "--samples", "3"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=root)
    assert run.returncode == 0, run.stderr
    assert out.read_text() == render_dataset(folder, samples=3, measured=2000, seed=0)
