"""Measures a study: every arm and seed alike; writes WORK/STUDY.json, .md and .html."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from seed_dist.config import STAGES, load_recipe
from seed_dist.data.manifest import MANIFEST_NAME, load_manifest
from seed_dist.eval.bench import Bench
from seed_dist.eval.report import rounded
from seed_dist.eval.studies.definitions import Arm, Study
from seed_dist.eval.studies.measurements import MEASURES
from seed_dist.eval.studies.page import render
from seed_dist.eval.studies.table import markdown
from seed_dist.eval.studies.workspaces import arm_folder, finished_seeds, read_arm
from seed_dist.eval.workspace import Invocation, Split, Workspace
from seed_dist.fsio import fingerprint, write_json, write_text
from seed_dist.obs.provenance import RUN, git_revision

_LOG = logging.getLogger("seed_dist")


def measure_study(work: Path, study: Study, split: str, device: torch.device) -> tuple[Path, ...]:
    """Measure all arms on all seeds that are trained; the value is the paths of the files.

    What was measured before of the same models and data is kept in WORK/ARM/seed-N/STUDY.json.
    """
    seeds = finished_seeds(work, study, study.arms)
    arms = {
        arm.name: {str(seed): _measured(arm_folder(work, arm, seed), study, arm, split, device) for seed in seeds}
        for arm in study.arms
    }
    samples = len(Split(_workspace(arm_folder(work, study.arms[0], seeds[0]), device), split))
    result: dict[str, Any] = {
        "study": study.name,
        "question": study.question,
        "seeds": seeds,
        "split": split,
        "samples": samples,
        "machine": machine(),
        "git": git_revision(Path(__file__).parent),
        "recipes": {arm.name: list(read_arm(arm_folder(work, arm, seeds[0])).overrides) for arm in study.arms},
        "arms": arms,
    }
    result = rounded(result)
    json.dumps(result, allow_nan=False)  # a NaN would make the file unreadable elsewhere
    paths = tuple(work / f"{study.name}.{suffix}" for suffix in ("json", "md", "html"))
    write_json(paths[0], result)
    write_text(paths[1], markdown(study, result))
    write_text(paths[2], render(result))
    return paths


def _measured(folder: Path, study: Study, arm: Arm, split: str, device: torch.device) -> dict[str, Any]:
    workspace = _workspace(folder, device)
    kept, key = folder / f"{study.name}.json", _key(workspace, study, split)
    if kept.is_file() and (before := json.loads(kept.read_text()))["key"] == key:
        return before["numbers"]
    numbers: dict[str, Any] = {}
    bench = Bench(workspace, Split(workspace, split), 0)
    for measure in MEASURES[study.name]:
        started = time.monotonic()
        measure(bench, arm, numbers)
        seconds = time.monotonic() - started
        _LOG.info("study %s: %s %s, %s  %.1f s", study.name, arm.name, folder.name, measure.__name__, seconds)
    write_json(kept, {"key": key, "numbers": numbers})
    return numbers


def _workspace(folder: Path, device: torch.device) -> Workspace:
    record = read_arm(folder)
    recipe = load_recipe(record.recipe, record.overrides)
    return Workspace(recipe, Invocation(record.recipe, folder, record.overrides), device)


def _key(workspace: Workspace, study: Study, split: str) -> str:
    """Changes with the recipe, the trained stages, the codes and what is measured."""
    work = workspace.work
    runs = {stage: (work / stage / RUN).read_text() for stage in STAGES if (work / stage / RUN).is_file()}
    codes = work / "features" / "codes" / split
    return fingerprint(
        {
            "recipe": workspace.recipe.as_dict(),
            "runs": runs,
            "codes": load_manifest(codes).fingerprint if (codes / MANIFEST_NAME).is_file() else None,
            "measures": [measure.__name__ for measure in MEASURES[study.name]],
            "split": split,
        }
    )


def machine() -> str:
    """Processor and GPU in words, for documents."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}, {gpu}"
