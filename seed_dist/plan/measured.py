"""What a run really did, from its journal and its files: to calibrate a plan with, and to compare it with."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.config import Recipe, StageName, recipe_from_dict
from seed_dist.errors import DataError
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.plan.request import Range

_RUN, _MANIFEST = "run.json", "manifest.json"
_CHECKPOINTS = "checkpoints"
_WARM_UP_STEPS = 3  # of an attempt: memory is allocated, kernels are chosen
_ENOUGH_STEPS = 5


@dataclass(frozen=True)
class MeasuredRun:
    """A run directory. `step_s` of its logged steps without those of an attempt's start; `wait_s` for data, median."""

    folder: Path
    stage: StageName
    recipe: Recipe
    world_size: int
    step_s: tuple[float, ...]
    wait_s: float
    checkpoint_bytes: int | None

    @property
    def median_step_s(self) -> float:
        return statistics.median(self.step_s)

    @property
    def spread_s(self) -> Range:
        """The middle four fifths of the steps."""
        tenths = statistics.quantiles(self.step_s, n=10)
        return tenths[0], tenths[-1]

    def feature_sets(self, targets: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
        """Samples and bytes on disk of the training features, by target and split, for those that are there."""
        found = {}
        for target, split in itertools.product(targets, self.recipe.data.counts):
            path = self.folder.parent / "features" / target / split / _MANIFEST
            if path.is_file():
                manifest = json.loads(path.read_text())
                size = sum(entry["size_bytes"] for entry in manifest["shards"])
                found[target, split] = (int(manifest["samples"]), size)
        return found

    @property
    def peak_memory_bytes(self) -> int | None:
        """Memory of the machine that all processes of the training took, where the demo watched it."""
        path = self.folder.parent / "peak_memory_bytes.json"
        peaks: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}
        return peaks.get(f"train_{self.stage}")


def read_run(folder: Path) -> MeasuredRun:
    """The run in `folder` (WORK/STAGE). DataError where it is none, or has too few steps to say anything."""
    path = folder / _RUN
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        recipe, stage = recipe_from_dict(record["recipe"], str(path)), record["stage"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give the folder of a run, WORK/STAGE.") from None
    journal = read_journal(folder / JOURNAL)
    steps, starts = _warm_steps(journal), [record for record in journal if record["event"] == "start"]
    if len(steps) < _ENOUGH_STEPS:
        raise DataError(
            f"{folder / JOURNAL} has {len(steps)} logged steps after the first {_WARM_UP_STEPS} of each attempt, but "
            f"{_ENOUGH_STEPS} are needed. Train more steps, or log more often (--set {stage}_training.log_every=1)."
        )
    checkpoints = sorted(path for path in (folder / _CHECKPOINTS).glob("step_*") if (path / _MANIFEST).is_file())
    return MeasuredRun(
        folder=folder,
        stage=stage,
        recipe=recipe,
        world_size=int(starts[-1]["world_size"]) if starts else int(record["world_size"]),
        step_s=tuple(float(step["step_s"]) for step in steps),
        wait_s=statistics.median(float(step["data_wait_s"]) for step in steps),
        checkpoint_bytes=_size(checkpoints[-1]) if checkpoints else None,
    )


def _warm_steps(journal: list[dict[str, Any]]) -> list[dict[str, Any]]:
    began, warm = 0, []
    for record in journal:
        if record["event"] == "start":
            began = int(record["step"])
        elif record["event"] == "step" and record["step"] > began + _WARM_UP_STEPS:
            warm.append(record)
    return warm


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def share_of_peak(run: MeasuredRun, rank_flops: float, peak_flops: float) -> Range:
    """What the run reached of one rank's peak, at its slow and at its fast steps, without the wait for data."""
    fast, slow = (max(seconds - run.wait_s, 1e-9) for seconds in run.spread_s)
    return rank_flops / slow / peak_flops, rank_flops / fast / peak_flops
