"""What captions of the glyph grammar say, compared word by word. Captions of other data have no attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seed_dist.glyphs.scenes import Scene, parse_caption

ATTRIBUTES = ("colour", "glyph", "relation", "background")
NO_GRAMMAR = (
    "these captions are not of the glyph grammar, so there are no colours, glyphs, relations or backgrounds to compare"
)


@dataclass
class Tally:
    """Right answers out of those asked for."""

    right: int = 0
    asked: int = 0

    @property
    def fraction(self) -> float | None:
        return self.right / self.asked if self.asked else None


def words_asked(scene: Scene) -> list[tuple[str, str]]:
    """(attribute, word) of everything a scene's caption says, objects in order; a single object has no relation."""
    asked = [pair for thing in scene.objects for pair in (("colour", thing.colour), ("glyph", thing.glyph))]
    relation = [("relation", scene.relation)] if scene.relation else []
    return [*asked, *relation, ("background", scene.background)]


def words_right(truth: Scene, answer: Scene | None) -> list[bool]:
    """For each of `words_asked(truth)`, whether the answer says the same.

    An answer outside the grammar says nothing right. Objects are compared in order: naming the right things in the
    wrong places is wrong.
    """
    if answer is None:
        return [False] * len(words_asked(truth))
    said = list(answer.objects) + [None] * len(truth.objects)
    right = []
    for thing, other in zip(truth.objects, said, strict=False):
        right += [other is not None and thing.colour == other.colour, other is not None and thing.glyph == other.glyph]
    relation = [truth.relation == answer.relation] if truth.relation else []
    return [*right, *relation, truth.background == answer.background]


def score_captions(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Any]:
    """Fractions right: `exact` over all pairs; per attribute over the truths that are of the grammar.

    colour and glyph count objects, relation counts scenes of two objects, background counts scenes. None where nothing
    was asked, with the reason in `unscored`.
    """
    tallies = {name: Tally() for name in ATTRIBUTES}
    for answer, truth in zip(answers, truths, strict=True):
        scene = parse_caption(truth)
        if scene is None:
            continue
        for (name, _), right in zip(words_asked(scene), words_right(scene, parse_caption(answer)), strict=True):
            tallies[name].asked += 1
            tallies[name].right += right
    fractions = {name: tally.fraction for name, tally in tallies.items()}
    exact = sum(a.split() == t.split() for a, t in zip(answers, truths, strict=True)) / len(truths)
    reason = {"unscored": NO_GRAMMAR} if tallies["background"].asked == 0 else {}
    return {"exact": exact, **fractions, **reason}


def chance_captions(truths: Sequence[str]) -> dict[str, Any]:
    """What always giving the most frequent answer would score: the best that knows nothing of the image."""
    seen: dict[str, Counter[str]] = {name: Counter() for name in ATTRIBUTES}
    for truth in truths:
        for name, word in words_asked(scene) if (scene := parse_caption(truth)) else []:
            seen[name][word] += 1
    fractions = {name: _top_share(counter) for name, counter in seen.items()}
    return {"exact": _top_share(Counter(" ".join(truth.split()) for truth in truths)), **fractions}


def _top_share(counter: Counter[str]) -> float | None:
    return counter.most_common(1)[0][1] / counter.total() if counter else None
