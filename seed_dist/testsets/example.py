"""One example of a test set, and a whole set with its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Example:
    """What is measured on: a picture with its captions, or with a question and the answers people gave.

    `key` names it in every record and never changes. `domain`: the set's own division, such as NoCaps' `in-domain`, or
    the kind of answer of a question, such as VQA's `yes/no`. `question_type`: as the annotations have it.
    """

    key: str
    image: Callable[[], Image.Image] | None  # opens the picture, upright RGB; raises DataError naming the file
    captions: tuple[str, ...] = ()
    question: str = ""
    answers: tuple[str, ...] = ()
    domain: str = ""
    question_type: str = ""


@dataclass(frozen=True)
class TestSet:
    """Examples in a fixed order. `card`: name, split, counts, licence, source, SHA-256 of the annotation files."""

    name: str
    split: str
    examples: Sequence[Example]
    card: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the annotation files' SHA-256 and the choice of examples."""
        return str(self.card["fingerprint"])
