"""The commands that make a study's workspaces: those of the chain, with data and finished stages shared between arms.

WORK/common holds pictures and the frozen encoders' features, made once. WORK/ARM/seed-N is a workspace like any other;
what an arm takes over is a symbolic link to where it was made, so nothing is computed or stored twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seed_dist.config import STAGES, load_recipe
from seed_dist.eval.studies.definitions import BUDGET, PIXEL_STEPS, Arm
from seed_dist.eval.studies.workspaces import ArmRecord, arm_folder
from seed_dist.ops.chain import Chain, Step

COMMON = "common"
# What a stage is followed by: the features that its model makes for the next one.
_FEATURES = {"causal_qformer": "causal", "codebook": "codes"}


@dataclass(frozen=True)
class Plan:
    """What all arms of all studies have in common; `overrides` are the user's, and win over the studies' own."""

    recipe: str
    work: Path
    ranks: int = 1
    scale: float = 1.0
    overrides: tuple[str, ...] = ()

    def common_steps(self) -> list[Step]:
        """Scenes, shards, and features of the frozen encoders."""
        chain = Chain(self.recipe, self.work / COMMON, None, self.ranks, self.scale, self.overrides)
        steps = chain.steps(load_recipe(self.recipe, self.overrides))
        names = [step.name for step in steps]
        return steps[: names.index("encode_images") + 1]

    def record(self, arm: Arm, seed: int) -> ArmRecord:
        """The recipe of one arm and seed. An arm's own values win over the user's, or the arms would not differ."""
        return ArmRecord(self.recipe, (*BUDGET, *self.overrides, *arm.overrides, f"seed={seed}"))

    def steps(self, arm: Arm, seed: int) -> list[Step]:
        """The trainings of one arm and seed, with the encoding that follows each."""
        record, folder = self.record(arm, seed), arm_folder(self.work, arm, seed)
        chain = Chain(self.recipe, folder, None, self.ranks, self.scale, record.overrides)
        wanted = {f"train_{stage}" for stage in arm.trains}
        wanted |= {f"encode_{_FEATURES[stage]}" for stage in arm.trains if stage in _FEATURES}
        ordinary = [step for step in chain.steps(load_recipe(record.recipe, record.overrides)) if step.name in wanted]
        return [*([_train_pixels(chain)] if arm.is_pixels else []), *ordinary]

    def link(self, arm: Arm, seed: int) -> None:
        """Make the arm's folder, with links to what it shares."""
        folder, common = arm_folder(self.work, arm, seed), self.work / COMMON
        link(folder / "images", common / "images")
        target = load_recipe(self.recipe, self.overrides).codebook.generation_target
        for name in ("patches", target):
            link(folder / "features" / name, common / "features" / name)
        if arm.takes_from is not None:
            for name in _taken(arm):
                link(folder / name, arm_folder(self.work, arm.takes_from, seed) / name)


def with_parents(arms: tuple[Arm, ...]) -> list[Arm]:
    """The arms, each after the one that it takes over from."""
    ordered: list[Arm] = []
    for arm in arms:
        parents = (arm.takes_from,) if arm.takes_from is not None else ()
        ordered += [one for one in (*parents, arm) if one not in ordered]
    return ordered


def _taken(arm: Arm) -> Iterator[str]:
    """Folders of the stages before the first that the arm trains itself, and of their features."""
    for stage in STAGES[: STAGES.index(arm.trains[0])]:
        yield stage
        yield f"features/{_FEATURES[stage]}"


def link(link: Path, target: Path) -> None:
    """A relative link, so that the whole folder of the studies can be moved."""
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))


def _train_pixels(chain: Chain) -> Step:
    settings = [word for item in chain.overrides for word in ("--set", item)]
    arguments = ["--recipe", chain.recipe, "--work", str(chain.work), *settings, "--steps", str(PIXEL_STEPS)]
    splits = [word for split in chain.splits for word in ("--split", split)]
    return Step("train_pixels", (sys.executable, "-m", "seed_dist.studies.pixels", *arguments, *splits))
