"""A training of a few steps of the user's own configuration, in workspaces of its own inside the real one."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from seed_dist.config import STAGES, Recipe, StageName, load_recipe

PROOFS = "proofs"
_VALIDATION_SAMPLES = 64
# What a model is made of can be made less of, as far as the features and the weights that it starts from allow.
_SMALL: dict[StageName, tuple[str, ...]] = {
    "causal_qformer": ("qformer.layers=2", "backbones.qformer=null"),
    "codebook": ("codebook.size=256", "codebook.decoder_layers=1", "codebook.head_layers=1"),
    "lora": ("lora.rank=2",),
}
_SMALL_BATCH = 16  # samples of a micro-batch


@dataclass(frozen=True)
class Trial:
    """`steps` steps of a stage, on the features and earlier stages of the workspace `work`."""

    recipe: str
    overrides: tuple[str, ...]
    stage: StageName
    work: Path
    steps: int
    save_every: int  # steps between two checkpoints

    @property
    def folder(self) -> Path:
        return self.work / PROOFS / self.stage

    @property
    def settings(self) -> tuple[str, ...]:
        """The user's overrides, and options that change what is reported and kept but nothing that is learnt."""
        own = {
            "log_every": 1,
            "checkpoint_every": self.save_every,
            "permanent_every": 0,
            "validate_every": self.steps,
            "validation_samples": _VALIDATION_SAMPLES,
        }
        return (*self.overrides, *(f"{self.stage}_training.{option}={value}" for option, value in own.items()))

    def loaded(self) -> Recipe:
        return load_recipe(self.recipe, self.settings)

    def workspace(self, name: str) -> Path:
        """A new workspace that has of the real one what the stage reads, by links."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in ("images", "features", *STAGES[: STAGES.index(self.stage)]):
            if (self.work / part).exists():
                (folder / part).symlink_to(os.path.relpath(self.work / part, folder))
        return folder

    def arguments(self, workspace: Path) -> list[str]:
        """What follows `python -m seed_dist.train`."""
        settings = [word for item in self.settings for word in ("--set", item)]
        where = ["--recipe", self.recipe, "--work", str(workspace), "--stage", self.stage]
        return [*where, *settings, "--steps", str(self.steps), "--mlflow", "off"]


def small(recipe: Recipe, stage: StageName) -> tuple[str, ...]:
    """Overrides that make a model and its batch small enough for a desk."""
    training = recipe.training(stage)
    batch = min(training.global_batch, _SMALL_BATCH * training.accumulation)
    return (*_SMALL[stage], f"{stage}_training.global_batch={batch}")
