"""Everything an evaluation found: numbers for report.json, examples for the page, and what could not be measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from seed_dist.eval.gallery import CodeUse
from seed_dist.eval.reader import Reading
from seed_dist.eval.retrieval import Query
from seed_dist.status.reference import Comparison


@dataclass(frozen=True)
class Gap:
    """A part that was not measured: what is missing and the command that makes it (empty where none does)."""

    part: str
    why: str
    command: str = ""


def by_cause(gaps: list[Gap]) -> list[tuple[Gap, list[str]]]:
    """One gap per cause, with the names of all parts that it keeps from being measured."""
    causes: dict[tuple[str, str], list[Gap]] = {}
    for gap in gaps:
        causes.setdefault((gap.why, gap.command), []).append(gap)
    return [(same[0], [gap.part for gap in same]) for same in causes.values()]


@dataclass
class Example:
    """One image of the split through every direction, as far as the stages exist."""

    caption: str
    original: Image.Image
    codes: list[int] | None = None  # of the image
    repainted: Image.Image | None = None  # from those codes
    written: str | None = None  # the caption that the language model wrote from them
    imagined_codes: list[int] | None = None  # that it wrote from the caption; None also where they were no valid image
    imagined: Image.Image | None = None  # the picture painted from those
    readings: list[Reading] = field(default_factory=list)  # what the judge saw in that picture


@dataclass
class ShownCode:
    """One code with the images and captions of `use.rows`."""

    use: CodeUse
    images: list[Image.Image]
    captions: list[str]


@dataclass
class RetrievalExamples:
    """Queries to show; rows refer to `images` and `captions`, which hold the rows that occur."""

    source: str  # "codes" or "embedding"
    by_image: list[Query]
    by_text: list[Query]
    images: dict[int, Image.Image]
    captions: dict[int, str]


@dataclass
class Results:
    """`numbers` is report.json; the rest is what only the page shows."""

    numbers: dict[str, Any] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)  # not made yet
    failures: list[Gap] = field(default_factory=list)  # there, but unusable
    examples: list[Example] = field(default_factory=list)
    unseen: list[Example] = field(default_factory=list)  # of the held-out pairs
    retrieval: RetrievalExamples | None = None
    journals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # per stage
    codes: list[ShownCode] = field(default_factory=list)
    references: dict[str, Comparison] = field(default_factory=dict)  # per stage
