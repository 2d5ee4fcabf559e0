"""What captions of the glyph grammar say, compared word by word. Captions of other data have no attributes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from seed_dist.eval.units import PerUnit, share
from seed_dist.glyphs.scenes import Scene, parse_caption

ATTRIBUTES = ("colour", "glyph", "relation", "background")
NO_GRAMMAR = (
    "these captions are not of the glyph grammar, so there are no colours, glyphs, relations or backgrounds to compare"
)


def right_by_attribute(answers: Sequence[Sequence[tuple[str, bool]]]) -> dict[str, Any]:
    """Fraction right per attribute. `answers`: for each unit, (attribute, whether it was right) of all that was asked.

    None where nothing was asked, with the reason in `unscored`.
    """
    right: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(answers))
    asked: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(answers))
    for unit, told in enumerate(answers):
        for name, is_right in told:
            asked[name][unit] += 1
            right[name][unit] += is_right
    fractions = {name: share(right[name], asked[name]) for name in ATTRIBUTES}
    return {**fractions, **({"unscored": NO_GRAMMAR} if fractions["background"] is None else {})}


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

    colour and glyph count objects, relation counts scenes of two objects, background counts scenes. The unit is a
    caption.
    """
    told: list[list[tuple[str, bool]]] = []
    for answer, truth in zip(answers, truths, strict=True):
        scene = parse_caption(truth)
        right = words_right(scene, parse_caption(answer)) if scene else []
        told.append([(name, one) for (name, _), one in zip(words_asked(scene) if scene else [], right, strict=True)])
    exact = PerUnit([a.split() == t.split() for a, t in zip(answers, truths, strict=True)])
    return {"exact": exact, **right_by_attribute(told)}


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
