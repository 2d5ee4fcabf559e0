"""A small workspace of drawn scenes, made by the ordinary commands, for proofs where there are no data yet."""

from __future__ import annotations

from pathlib import Path

from seed_dist.config import STAGES, StageName, load_recipe
from seed_dist.demo import run_step
from seed_dist.ops.chain import Chain

_SCALE = 0.03  # of the demo's scenes: 600 and 30
# The stages before the one that is proved need be there, not be good.
_SHORT = tuple(f"{stage}_training.{option}" for stage in STAGES for option in ("steps=20", "warmup_steps=5"))


def draw_workspace(recipe: str, overrides: tuple[str, ...], work: Path, stage: StageName) -> None:
    """Scenes, shards, features and earlier stages as `stage` needs them; what is there already is kept."""
    short = (*(item for item in _SHORT if not item.startswith(f"{stage}_")), *overrides)
    steps = Chain(recipe, work, None, 1, _SCALE, short).steps(load_recipe(recipe, short))
    names = [step.name for step in steps]
    for step in steps[: names.index(f"train_{stage}")]:
        run_step(work, step)
