"""Reads colours, glyphs, relation and background off pictures, with the frozen CLIP as the only judge.

For each word of a caption that names an attribute, the candidates are the caption with that one word replaced by every
other option; the reading is the option whose text embedding has the largest cosine with the picture's embedding. The
same reading of the original pictures says how far the judge itself can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.eval.attributes import right_by_attribute
from seed_dist.glyphs.scenes import BACKGROUNDS, COLOURS, GLYPHS, RELATIONS, Object, Scene, parse_caption

TextEmbedding = Callable[[Sequence[str]], Tensor]
_TEXTS_PER_CALL = 1024


@dataclass(frozen=True)
class Question:
    """One attribute of one scene: the options, the caption that goes with each, and which of them is true."""

    attribute: str
    options: tuple[str, ...]
    texts: tuple[str, ...]
    wanted: str


@dataclass(frozen=True)
class Reading:
    """What was wanted and what the judge saw."""

    attribute: str
    wanted: str
    read: str

    @property
    def right(self) -> bool:
        return self.wanted == self.read


def questions(scene: Scene) -> list[Question]:
    """Colour and glyph of each object in order, the relation if there is one, the background."""
    asked = []
    for i, thing in enumerate(scene.objects):
        asked.append(
            _question("colour", thing.colour, {c: _with_object(scene, i, Object(c, thing.glyph)) for c in COLOURS})
        )
        asked.append(
            _question("glyph", thing.glyph, {g: _with_object(scene, i, Object(thing.colour, g)) for g in GLYPHS})
        )
    if scene.relation:
        asked.append(_question("relation", scene.relation, {r: replace(scene, relation=r) for r in RELATIONS}))
    return [*asked, _question("background", scene.background, {b: replace(scene, background=b) for b in BACKGROUNDS})]


def _with_object(scene: Scene, index: int, thing: Object) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


def _question(attribute: str, wanted: str, scenes: dict[str, Scene]) -> Question:
    return Question(attribute, tuple(scenes), tuple(scene.caption() for scene in scenes.values()), wanted)


class AttributeReader:
    """Puts the questions of some captions to any pictures of them; the candidates' texts are embedded once."""

    def __init__(self, captions: Sequence[str], text_embedding: TextEmbedding) -> None:
        scenes = [parse_caption(caption) for caption in captions]
        self.questions = [questions(scene) if scene else [] for scene in scenes]
        texts = list(dict.fromkeys(text for asked in self.questions for question in asked for text in question.texts))
        self._row = {text: i for i, text in enumerate(texts)}
        calls = [texts[i : i + _TEXTS_PER_CALL] for i in range(0, len(texts), _TEXTS_PER_CALL)]
        self._texts = (
            F.normalize(torch.cat([text_embedding(call).float() for call in calls]), dim=-1) if texts else None
        )

    def read(self, rows: Sequence[int], embeddings: Tensor) -> list[list[Reading]]:
        """Readings of pictures with these embeddings [N, E]; picture i was made for caption rows[i]."""
        unit = F.normalize(embeddings.float(), dim=-1)
        return [[self._answer(q, vector) for q in self.questions[row]] for row, vector in zip(rows, unit, strict=True)]

    def _answer(self, question: Question, vector: Tensor) -> Reading:
        assert self._texts is not None, "a question exists, so its texts were embedded"
        candidates = self._texts[[self._row[text] for text in question.texts]]
        best = int((candidates @ vector).argmax())
        return Reading(question.attribute, question.wanted, question.options[best])


def score_readings(readings: Sequence[Sequence[Reading]], unmade: Sequence[Sequence[Question]] = ()) -> dict[str, Any]:
    """Fractions right per attribute. `unmade`: questions of pictures that could not be made; they count as wrong. The
    unit is a picture.
    """
    read = [[(reading.attribute, reading.right) for reading in group] for group in readings]
    missed = [[(question.attribute, False) for question in group] for group in unmade]
    return right_by_attribute([*read, *missed])
