"""What a run needs on disk, and room for what it writes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from seed_dist.config import load_recipe
from seed_dist.doctor import storage
from seed_dist.plan.hardware import load_hardware
from seed_dist.plan.request import Cluster, Request
from tests.features import tiny_workspace


def test_sets_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    work = tmp_path / "work"
    recipe = load_recipe("glyphs", tiny_workspace(work))
    target = work / "features" / recipe.codebook.generation_target / "train"
    states = {one.what: one for one in storage.workspace_findings(recipe, "glyphs", work)}
    name = f"features/{recipe.codebook.generation_target}/train"
    assert states[name].state == "ok"
    shard = sorted(target.glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-512])
    cut = {one.what: one for one in storage.workspace_findings(recipe, "glyphs", work)}[name]
    assert cut.state == "failed"
    assert shard.name in cut.text
    assert f"--target {recipe.codebook.generation_target} --split train" in cut.mend
    shutil.rmtree(target)
    gone = {one.what: one for one in storage.workspace_findings(recipe, "glyphs", work)}[name]
    assert gone.state == "failed"
    assert "does not exist" in gone.text


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    recipe = load_recipe("glyphs", [f"backbones.painter={tmp_path / 'none'}"])
    failed = [one for one in storage.asset_findings(recipe, "glyphs") if one.state == "failed"]
    assert [one.what for one in failed] == ["backbones.painter"]
    published = storage.asset_findings(load_recipe("seed_v2"), "seed_v2")
    fetched = [one for one in published if one.state == "failed" and one.mend]
    assert all("seed_dist.assets fetch --recipe seed_v2 --only" in one.mend for one in fetched)
    assert fetched or all(one.state == "ok" for one in published if "hub:" in one.text)


def test_room_is_compared_with_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(load_recipe("seed_v2"), Cluster(8, 8, load_hardware("v100")), 1_000_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(storage, "quota_left", lambda folder: [])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**16, 0, 10**16))
    wide = storage.disk_finding(request, tmp_path / "not" / "yet")
    assert wide.state == "ok"
    assert "features 7" in wide.text  # 257 x 1408 fp16 for a million images are 724 GB
    monkeypatch.setattr(storage, "quota_left", lambda folder: [10**9])
    narrow = storage.disk_finding(request, tmp_path)
    assert narrow.state == "failed"
    assert "1.0 GB left of a quota" in narrow.text


def test_quotas_are_read() -> None:
    text = (
        "Disk quotas for user a (uid 1):\n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        "nfs:/export/home  1000*    3000    4000           10       0       0\n"
        "      /dev/free    500       0       0           10       0       0\n"
        "  /lustre/scratch 2048    4096       0       -     7       0       0       -\n"
    )
    assert storage.parse_quota(text) == [3000 * 1024, 2048 * 1024]
    assert storage.parse_quota("none") == []
