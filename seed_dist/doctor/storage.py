"""Weights, images and features that a run needs, and room for what it will write."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from seed_dist.assets import resolve
from seed_dist.config import STAGES, Recipe
from seed_dist.data.manifest import load_manifest
from seed_dist.doctor.finding import Finding
from seed_dist.errors import ConfigError, SeedDistError
from seed_dist.mixture import VALIDATION_SPLIT
from seed_dist.plan.planner import make_plan
from seed_dist.plan.request import Request
from seed_dist.train.data import open_data, stage_targets

_QUOTA_S = 20.0
_KIB = 1024


def asset_findings(recipe: Recipe, named: str) -> list[Finding]:
    """Every backbone of the recipe: there, with the files and sizes that came. Contents: `seed_dist.assets verify`."""
    findings = []
    for option, reference in dataclasses.asdict(recipe.backbones).items():
        if reference is None:
            continue
        try:
            findings.append(Finding(f"backbones.{option}", "ok", f"{reference}: {resolve(reference, option)}"))
        except SeedDistError as error:
            text = error.problems[0] if isinstance(error, ConfigError) else str(error)
            fetch = f"python -m seed_dist.assets fetch --recipe {named} --only {option}"
            mend = fetch if reference.startswith("hub:") else ""
            findings.append(Finding(f"backbones.{option}", "failed", text, mend))
    return findings


def workspace_findings(recipe: Recipe, named: str, work: Path) -> list[Finding]:
    """What is to be there before the first stage, set by set; then whether each stage's features fit together."""
    findings = []
    given = f"--recipe {named} --work {work}"
    splits = [*recipe.data.counts, VALIDATION_SPLIT]
    for split in splits:
        mend = f"python data_prep/shard.py path/to/{split} {work / 'images' / split}"
        findings.append(_set_finding(work / "images" / split, mend))
        for target in ("patches", recipe.codebook.generation_target):
            mend = f"python data_prep/encode.py {given} --target {target} --split {split}"
            findings.append(_set_finding(work / "features" / target / split, mend))
    for stage in STAGES:
        folders = [work / "features" / target / split for target in stage_targets(recipe, stage) for split in splits]
        if not all(folder.is_dir() for folder in folders):
            continue
        try:
            data = open_data(recipe, stage, work)
        except SeedDistError as error:
            findings.append(Finding(f"data of {stage}", "failed", str(error)))
        else:
            findings.append(
                Finding(f"data of {stage}", "ok", f"{len(data.train):,} samples, {len(data.val):,} to validate")
            )
    return findings


def _set_finding(folder: Path, mend: str) -> Finding:
    name = "/".join(folder.parts[-2:]) if folder.parts[-2] == "images" else "/".join(folder.parts[-3:])
    try:
        manifest = load_manifest(folder)
    except SeedDistError as error:
        return Finding(name, "failed", str(error), mend)
    lost = [entry.name for entry in manifest.shards if not _has_size(folder / entry.name, entry.size_bytes)]
    if lost and not (folder / "remote.json").is_file():
        return Finding(name, "failed", f"{len(lost)} shard(s) missing or of another size, the first is {lost[0]}", mend)
    return Finding(name, "ok", f"{manifest.samples:,} samples in {len(manifest.shards):,} shards")


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def disk_finding(request: Request, work: Path) -> Finding:
    """Room on the workspace's disk, and of the user's quota, against what the plan says is yet to be written there."""
    try:
        plan = make_plan(request)
    except ConfigError as error:
        return Finding("disk", "warning", f"not compared with a plan: {error.problems[0]}")
    features = sum(part.set_bytes for part in plan.encoding if not (work / "features" / part.target).is_dir())
    checkpoints = sum(stage.checkpoints.kept_bytes for stage in plan.stages if not (work / stage.stage).is_dir())
    needed = features + checkpoints
    existing = next(folder for folder in (work.absolute(), *work.absolute().parents) if folder.is_dir())
    rooms = [(shutil.disk_usage(existing).free, "free"), *((left, "left of a quota") for left in quota_left(existing))]
    room, what = min(rooms)
    text = (
        f"{room / 1e9:,.1f} GB {what} at {existing}; {needed / 1e9:,.1f} GB are yet to be written for "
        f"{request.pairs:,} pairs (features {features / 1e9:,.1f}, checkpoints {checkpoints / 1e9:,.1f})"
    )
    if room >= needed:
        return Finding("disk", "ok", text)
    return Finding("disk", "failed", text, f"python -m seed_dist.plan --recipe {request.recipe.name}")


def quota_left(folder: Path) -> list[int]:
    """Bytes, of each quota that `quota` or Lustre's `lfs quota` tells of; nothing where neither is installed."""
    commands = (["quota", "-w"], ["lfs", "quota", "-q", str(folder)])
    return [left for command in commands if shutil.which(command[0]) for left in parse_quota(_output(command))]


def parse_quota(text: str) -> list[int]:
    """Lines of `filesystem used soft hard ...` in KiB, which both programs print; a limit of 0 is none."""
    rows = re.findall(r"^\s*\S*/\S*\s+(\d+)\*?\s+(\d+)\s+(\d+)\b", text, re.MULTILINE)
    limits = [(int(used), int(hard) or int(soft)) for used, soft, hard in rows]
    return [max(0, limit - used) * _KIB for used, limit in limits if limit]


def _output(command: Iterable[str]) -> str:
    try:
        return subprocess.run(list(command), capture_output=True, text=True, check=False, timeout=_QUOTA_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
