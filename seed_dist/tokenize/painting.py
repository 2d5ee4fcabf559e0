"""Pictures painted from lines of ids, a file for each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seed_dist.fsio import atomic_file
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.tokenize.id_lines import Line

_STEM_LENGTH = 60


@dataclass(frozen=True)
class Painting:
    """How to paint, and the folder to paint into; None means the painter's default, `negative` is one image's ids."""

    folder: Path
    seed: int
    steps: int | None
    guidance: float | None
    negative: Tensor | None

    def paint(self, tokenizer: SeedTokenizer, number: int, line: Line) -> None:
        """Write NUMBER-NAME.png. One by one: a picture depends on its ids alone, not on their place in a batch."""
        (picture,) = tokenizer.paint(line.ids, self.seed, self.steps, self.guidance, self.negative)
        with atomic_file(self.folder / f"{number:06d}-{_stem(line.name)}.png") as file:
            picture.save(file, "PNG")


def _stem(name: str) -> str:
    """The last part of a name, without its ending, as a file name that every disk takes."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:_STEM_LENGTH]
