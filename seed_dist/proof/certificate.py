"""What was proved, on and with what: a JSON file that stays in the workspace."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from seed_dist.config import Recipe
from seed_dist.fsio import write_json
from seed_dist.obs.provenance import attempt


def write_certificate(path: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    """Write `result` with recipe, machine, code revision and versions."""
    about = {"recipe": recipe.name, "recipe_fingerprint": recipe.fingerprint(), "hardware": hardware()}
    write_json(path, {**result, **about, **attempt()})


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, GPUs with their drivers; of this node, others may differ."""
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", lines, re.MULTILINE)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
