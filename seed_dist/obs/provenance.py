"""`run.json`: what a run directory belongs to, written once, checked by every later attempt."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from seed_dist.assets import resolve, weights_sha256
from seed_dist.config import Recipe, StageName
from seed_dist.errors import MismatchError
from seed_dist.fsio import fingerprint, write_json
from seed_dist.redaction import redact_command

RUN = "run.json"
# Which sections of a recipe a stage's result depends on, besides its own training options.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "causal_qformer": ("qformer",),
    "codebook": ("qformer", "codebook"),
    "lora": ("lora",),
}
_BACKBONES: dict[str, tuple[str, ...]] = {
    "causal_qformer": ("text_tokenizer", "qformer"),
    "codebook": (),
    "lora": ("language_model",),
}
# Training options that change what is reported or kept, how a batch is cut up, or what is done once all goes wrong.
_FREE_OPTIONS = (
    "log_every",
    "validate_every",
    "validation_samples",
    "checkpoint_every",
    "keep_checkpoints",
    "max_rank_batch",
    "permanent_every",
    "max_skipped_in_a_row",
    "spike_deviations",
    "spike_window",
    "spike_patience",
    "max_rollbacks",
    "replica_check_every",
    "on_collapse",
)
_PACKAGES = (
    "torch",
    "deepspeed",
    "transformers",
    "peft",
    "diffusers",
    "webdataset",
    "open_clip_torch",
    "submitit",
    "mlflow",
    "pyarrow",
    "numpy",
    "safetensors",
)


def stage_identity(recipe: Recipe, stage: StageName, parents: dict[str, str]) -> dict[str, Any]:
    """What decides what a stage learns, as `section.option` -> value; two runs of one identity are one run.

    Raises ConfigError when the folder of `backbones.qformer` is missing.
    """
    values = recipe.as_dict()
    identity: dict[str, Any] = {"stage": stage, "seed": recipe.seed, "engine.precision": recipe.engine.precision}
    for section in _SECTIONS[stage]:
        identity |= {f"{section}.{option}": value for option, value in values[section].items()}
    if stage == "lora":
        identity |= {"codebook.size": recipe.codebook.size, "qformer.queries": recipe.qformer.queries}
    identity |= {f"backbones.{name}": values["backbones"][name] for name in _BACKBONES[stage]}
    if stage == "causal_qformer":  # trained on from there; a frozen language model is too large for every rank to hash
        start = recipe.backbones.qformer
        identity["backbones.qformer.sha256"] = None if start is None else weights_sha256(resolve(start, "qformer"))
    for option, value in dataclasses.asdict(recipe.training(stage)).items():
        if option not in _FREE_OPTIONS:
            identity[f"{stage}_training.{option}"] = value
    if len(recipe.data.mixture) > 1:
        identity["data.mixture"] = recipe.data.counts
    identity |= {f"parents.{name}": value for name, value in parents.items()}
    return json.loads(json.dumps(identity))  # tuples become lists, as in the file


def check_run(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the run directory already exists; MismatchError with both values of every option that differs."""
    path = folder / RUN
    if not path.is_file():
        return False
    try:
        recorded = json.loads(path.read_text())["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(
            f"{path}",
            f"damaged ({error})",
            "the record of a run",
            "Start over with --fresh, which keeps the old folder.",
        ) from error
    names = [name for name in {**recorded, **identity} if recorded.get(name) != identity.get(name)]
    if names:
        raise MismatchError(
            f"what {folder} was trained with",
            {name: recorded.get(name) for name in names},
            {name: identity.get(name) for name in names},
            "Use the old options, give another --work, or start over with --fresh, which keeps the old folder under "
            "another name.",
        )
    return True


def record_run(folder: Path, recipe: Recipe, identity: dict[str, Any], world_size: int) -> None:
    """Write run.json, unless an earlier attempt did."""
    if (folder / RUN).is_file():
        return
    parents = {name.removeprefix("parents."): value for name, value in identity.items() if name.startswith("parents.")}
    record = {
        "stage": identity["stage"],
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "parents": parents,
        "recipe": recipe.as_dict(),
        "world_size": world_size,
        **attempt(),
    }
    write_json(folder / RUN, record)


def attempt() -> dict[str, Any]:
    """Who runs what where: command without secrets, code revision, package versions, machine, batch job, time."""
    return {
        "command": redact_command([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "git": git_revision(Path(__file__).parent),
        "versions": {"python": platform.python_version(), **_package_versions()},
        "host": platform.node(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def git_revision(folder: Path) -> dict[str, Any]:
    """Commit and whether the tree has changes; both None outside a git checkout."""
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if revision is not None else None
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
