"""Where a report's numbers come from: code, versions, recipe, seeds, data, trained and frozen weights, sizes, times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seed_dist.assets import resolve, weights_sha256
from seed_dist.config import STAGES, Recipe
from seed_dist.data.manifest import MANIFEST_NAME
from seed_dist.errors import SeedDistError
from seed_dist.eval.workspace import Workspace
from seed_dist.obs.provenance import RUN, attempt


def provenance(recipe: Recipe, work: Path) -> dict[str, Any]:
    """Enough to make the same numbers again, or to see why they differ."""
    return {
        **attempt(),
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint()},
        "seed": recipe.seed,
        "painting": {"steps": recipe.eval.paint_steps, "guidance": recipe.eval.guidance, "seed": recipe.seed},
        "backbones": {name: _weights(reference) for name, reference in recipe.as_dict()["backbones"].items()},
        "runs": {stage: _read(work / stage / RUN).get("fingerprint") for stage in STAGES},
        "manifests": {
            str(path.parent.relative_to(work)): _read(path).get("fingerprint")
            for path in sorted((*work.glob(f"images/*/{MANIFEST_NAME}"), *work.glob(f"features/*/*/{MANIFEST_NAME}")))
        },
    }


def seconds(work: Path) -> dict[str, float]:
    """Seconds of each step that the demo runner recorded; empty without it."""
    recorded = _read(work / "seconds.json")
    return {name: float(value) for name, value in recorded.items() if isinstance(value, (int, float))}


def peak_memory_bytes(work: Path) -> dict[str, int]:
    """The most memory that each step of the demo and its children took together; empty without the demo runner."""
    recorded = _read(work / "peak_memory_bytes.json")
    return {name: int(value) for name, value in recorded.items() if isinstance(value, (int, float))}


def sizes(workspace: Workspace) -> dict[str, Any]:
    """Bytes on disk of the data and of each stage; parameters of the models that were loaded."""
    work = workspace.work
    folders = sorted([work / "images", *work.glob("features/*"), *(work / stage for stage in STAGES)])
    return {
        "bytes": {str(folder.relative_to(work)): _bytes(folder) for folder in folders if folder.is_dir()},
        "parameters": workspace.parameters(),
    }


def _weights(reference: str | None) -> dict[str, str | None]:
    if reference is None:
        return {"reference": None, "sha256": None}
    try:
        return {"reference": reference, "sha256": weights_sha256(resolve(reference))}
    except SeedDistError:  # not on this machine; what needs it has said so
        return {"reference": reference, "sha256": None}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is absent or damaged: its owner complains about that."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
