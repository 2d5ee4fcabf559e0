"""Which suites there are and which sets can be measured, by the names that the options have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.errors import ConfigError, UnavailableError
from seed_dist.suites.prompts import PROMPTS

if TYPE_CHECKING:
    from seed_dist.models.inception import Resize
    from seed_dist.suites.models import Models
    from seed_dist.suites.suite import Suite
    from seed_dist.testsets.example import Example, TestSet

SUITES = ("retrieval", "codes", "reconstruction", "generation", "caption", "vqa")
_PAINTING = ("reconstruction", "generation")
PAINTED_OF_WORKSPACE = 256  # examples, where --painted does not say: minutes on two cores; public sets are never cut
JUDGES = ("clip", "inception", "lpips")
PROTOCOLS = ("seed", "train", "crop")


@dataclass(frozen=True)
class Options:
    """What suites take besides models. `protocol`: of pictures and captions, see `suites/retrieval.py`. `seed`: of
    whatever is drawn. `prompt`: around a question, `caption_prompt`: before a caption, see `suites/prompts.py`.
    `beams`: of the search for a text. `steps`, `guidance`: of painting, None for the painter's; `resize`: of pictures
    for FID, see `models/inception.py`.
    """

    protocol: str = "seed"
    seed: int = 0
    prompt: str = "seed-opt"
    caption_prompt: str = "none"
    beams: int = 1
    steps: int | None = None
    guidance: float | None = None
    resize: Resize = "clean"
    force_image: bool = False


# What an example must have at least, and what to call it; pictures all sets have.
_NEEDS = {
    "retrieval": ("captions", "captions"),
    "generation": ("captions", "captions"),
    "caption": ("captions", "captions"),
    "vqa": ("question", "questions"),
}


def open_suite(name: str, models: Models, options: Options, examples: Sequence[Example]) -> Suite:
    """The suite of a name, for these examples. UnavailableError where it needs a model that was never made, or what
    this kind of set does not have.
    """
    part, words = _NEEDS.get(name, ("key", ""))
    if not any(getattr(example, part) for example in examples):
        raise UnavailableError(f"the set has no {words}. Give --suite {name} another --data, see docs/testsets.md.")
    if name == "retrieval":
        from seed_dist.suites.retrieval import RetrievalSuite

        return RetrievalSuite(models, options)
    if name == "codes":
        from seed_dist.suites.codes import CodesSuite

        return CodesSuite(models, options)
    if name == "vqa":
        from seed_dist.suites.vqa import Answering, Questions

        hashes = {**models.tokenizer_hashes(), **models.language_hashes()}
        answering = Answering(PROMPTS[options.prompt], options.beams)
        return Questions(models.tokenizer, models.language, hashes, answering, examples)
    if name == "caption":
        from seed_dist.suites.caption import Captions, Writing

        hashes = {**models.tokenizer_hashes(), **models.language_hashes()}
        writing = Writing(options.caption_prompt, options.beams)
        return Captions(models.tokenizer, models.language, hashes, writing)
    if name == "reconstruction":
        from seed_dist.suites.painted import open_reconstruction

        return open_reconstruction(models, options)
    if name == "generation":
        from seed_dist.suites.painted import open_generation

        return open_generation(models, options)
    raise ConfigError([f"--suite {name} is not known; these are: {', '.join(SUITES)}"])


def measured_examples(
    suite: str, testset: TestSet, limit: int | None, painted: int | None
) -> tuple[Sequence[Example], str]:
    """The examples of a set that a suite measures, and in words which these are; no words where it is all of them.

    The first `limit`, or all; of these suites that paint take `painted`, evenly spaced. Where that is None they take
    PAINTED_OF_WORKSPACE of a workspace, and all of a public set; so they do where it is 0.
    """
    every, total = testset.examples[:limit], len(testset.examples)
    if painted is None and testset.name == "workspace":
        painted = PAINTED_OF_WORKSPACE
    if suite in _PAINTING and painted and painted < len(every):
        of = f"the first {len(every)} of {total}" if len(every) < total else str(total)
        return [every[row * len(every) // painted] for row in range(painted)], f"{painted} of {of}, evenly spaced"
    return every, f"the first {len(every)} of {total}" if len(every) < total else ""


def open_data(text: str, work: Path | None) -> TestSet:
    """`workspace:SPLIT` of the workspace that --run names, `workspace:FOLDER:SPLIT`, or `NAME:FOLDER[:SPLIT]` of a
    public set (by default the first split of `testsets.published`).
    """
    name, _, rest = text.partition(":")
    if name == "workspace":
        from seed_dist.testsets.workspace import open_workspace

        folder, _, split = rest.rpartition(":")
        if not split or (not folder and work is None):
            raise ConfigError([f"--data {text}: give workspace:SPLIT with --run, or workspace:FOLDER:SPLIT"])
        return open_workspace(Path(folder) if folder else work or Path(), split)
    from seed_dist.testsets.opening import open_testset
    from seed_dist.testsets.published import PUBLISHED

    if name not in PUBLISHED or not rest:
        names = ", ".join(PUBLISHED)
        raise ConfigError([f"--data {text}: give workspace:SPLIT, or NAME:FOLDER[:SPLIT] with one of {names}"])
    folder, _, split = rest.rpartition(":")
    if split not in PUBLISHED[name]:
        folder, split = rest, next(iter(PUBLISHED[name]))
    return open_testset(name, Path(folder), split)
