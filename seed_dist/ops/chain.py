"""The whole pipeline as data: which commands lead from captioned images to the report, in order.

The same commands run by hand, in the demo and in the SLURM scripts; this file only knows their order and arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seed_dist.config import Recipe

ROOT = Path(__file__).parents[2]
GLYPH_SPLITS = ("train", "val", "test", "heldout")
USER_SPLITS = ("train", "val", "test")
USER_FRACTIONS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}  # by hash of the sample's name


@dataclass(frozen=True)
class Step:
    """One command of the chain."""

    name: str
    command: tuple[str, ...]

    def shown(self) -> str:
        """The command as a person would type it from the project's folder."""
        words = ["python" if word == sys.executable else word for word in self.command]
        return " ".join(word.removeprefix(f"{ROOT}/") for word in words)


@dataclass(frozen=True)
class Chain:
    """What to run: a recipe in a workspace, on drawn scenes or on `data`, with `ranks` processes for each training."""

    recipe: str
    work: Path
    data: Path | None = None
    ranks: int = 2
    scale: float = 1.0
    overrides: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        return USER_SPLITS if self.data else GLYPH_SPLITS

    def steps(self, recipe: Recipe) -> list[Step]:
        """The commands in order; each is restartable and does nothing when its output is complete.

        Further splits of the recipe's mixture are encoded too; their images must be in the workspace already.
        """
        target = recipe.codebook.generation_target
        encoded = tuple(dict.fromkeys((*self.splits, *recipe.data.counts)))
        return [
            *([] if self.data else [self._scenes(recipe.seed)]),
            *(self._shard(split) for split in self.splits),
            self._encode("encode_images", ("patches", target), encoded),
            self._train("causal_qformer"),
            self._encode("encode_causal", ("causal",), encoded),
            self._train("codebook"),
            self._encode("encode_codes", ("codes",), encoded),
            self._train("lora"),
            self._step("eval", (sys.executable, "-m", "seed_dist.eval"), self._common()),
        ]

    def _step(self, name: str, head: Sequence[str], tail: Sequence[str]) -> Step:
        return Step(name, (*head, *tail))

    def _common(self) -> list[str]:
        settings = [word for item in self.overrides for word in ("--set", item)]
        return ["--recipe", self.recipe, "--work", str(self.work), *settings]

    def _scenes(self, seed: int) -> Step:
        out = ["--seed", str(seed), "--scale", str(self.scale), str(self.work / "source")]
        return self._step("scenes", (sys.executable, "-m", "seed_dist.glyphs.dataset"), out)

    def _shard(self, split: str) -> Step:
        source = self.data or self.work / "source" / split
        tail = [str(source), str(self.work / "images" / split)]
        if self.data:
            low, high = USER_FRACTIONS[split]
            tail += ["--hash-range", str(low), str(high)]
        return self._step(f"shard_{split}", (sys.executable, str(ROOT / "data_prep" / "shard.py")), tail)

    def _encode(self, name: str, targets: Sequence[str], splits: Sequence[str]) -> Step:
        which = [*(w for t in targets for w in ("--target", t)), *(w for s in splits for w in ("--split", s))]
        return self._step(name, (sys.executable, str(ROOT / "data_prep" / "encode.py")), [*self._common(), *which])

    def _train(self, stage: str) -> Step:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}")
        return self._step(f"train_{stage}", (*launcher, "-m", "seed_dist.train"), [*self._common(), "--stage", stage])
