"""Where the arms of a study lie: WORK/ARM/seed-N, each a workspace of its own, with ARM_FILE when it is finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seed_dist.errors import DataError
from seed_dist.eval.studies.definitions import Arm, Study
from seed_dist.fsio import write_json

ARM_FILE = "arm.json"


@dataclass(frozen=True)
class ArmRecord:
    """The recipe that an arm was trained with."""

    recipe: str
    overrides: tuple[str, ...]


def arm_folder(work: Path, arm: Arm, seed: int) -> Path:
    return work / arm.name / f"seed-{seed}"


def record_arm(folder: Path, record: ArmRecord) -> None:
    """Say that everything of this arm and seed is trained."""
    write_json(folder / ARM_FILE, {"recipe": record.recipe, "overrides": list(record.overrides)})


def read_arm(folder: Path) -> ArmRecord:
    values = json.loads((folder / ARM_FILE).read_text())
    return ArmRecord(values["recipe"], tuple(values["overrides"]))


def finished_seeds(work: Path, study: Study, arms: Sequence[Arm]) -> list[int]:
    """The seeds of which all these arms are there. DataError with the command that makes them, where there is none."""
    found = [
        {int(path.parent.name.removeprefix("seed-")) for path in (work / arm.name).glob(f"seed-*/{ARM_FILE}")}
        for arm in arms
    ]
    seeds = sorted(set.intersection(*found)) if found else []
    if not seeds:
        missing = ", ".join(arm.name for arm, there in zip(arms, found, strict=True) if not there) or "a common seed"
        raise DataError(
            f"{work} holds no seed of which all arms of the study {study.name} are trained (missing: {missing}). Train "
            f"them with: python -m seed_dist.studies {study.name} --work {work}"
        )
    return seeds
