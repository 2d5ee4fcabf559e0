"""Which suites there are and which sets can be measured, by the names that the options have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.errors import ConfigError

if TYPE_CHECKING:
    from seed_dist.suites.models import Models
    from seed_dist.suites.suite import Suite
    from seed_dist.testsets.example import Example, TestSet

SUITES = ("retrieval", "codes")
PROTOCOLS = ("seed", "train", "crop")


@dataclass(frozen=True)
class Options:
    """What suites take besides models. `protocol`: of pictures and captions, see `suites/retrieval.py`. `seed`: of
    whatever is drawn.
    """

    protocol: str = "seed"
    seed: int = 0


def open_suite(name: str, models: Models, options: Options, examples: Sequence[Example]) -> Suite:
    """The suite of a name, for these examples. UnavailableError where it needs a model that was never made."""
    if name == "retrieval":
        from seed_dist.suites.retrieval import RetrievalSuite

        return RetrievalSuite(models, options)
    if name == "codes":
        from seed_dist.suites.codes import CodesSuite

        return CodesSuite(models, options)
    raise ConfigError([f"--suite {name} is not known; these are: {', '.join(SUITES)}"])


def open_data(text: str, work: Path | None) -> TestSet:
    """`workspace:SPLIT` of the workspace that --run names, `workspace:FOLDER:SPLIT`, or `NAME:FOLDER[:SPLIT]` of a
    public set.
    """
    name, _, rest = text.partition(":")
    if name == "workspace":
        from seed_dist.testsets.workspace import open_workspace

        folder, _, split = rest.rpartition(":")
        if not split or (not folder and work is None):
            raise ConfigError([f"--data {text}: give workspace:SPLIT with --run, or workspace:FOLDER:SPLIT"])
        return open_workspace(Path(folder) if folder else work or Path(), split)
    raise ConfigError([f"--data {text}: give workspace:SPLIT or NAME:FOLDER[:SPLIT]"])
