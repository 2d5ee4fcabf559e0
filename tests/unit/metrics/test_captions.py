"""BLEU, ROUGE-L and CIDEr: frozen answers of pycocoevalcap 1.2 always, its own where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_dist.errors import UnavailableError
from seed_dist.metrics import caption_programs
from seed_dist.metrics.captions import CaptionPairs, bleu

WRITTEN = ["a red heart above a blue star", "a dog", "", "the the the the cat", "1\u00a01/2 cups of café crème"]
REFERENCES = [
    ["a red heart is above a blue star", "red heart above blue star"],
    ["a dog runs on the grass", "the brown dog is running", "a dog"],
    ["a cat sleeps", "the cat"],
    ["the cat sat on the mat"],
    ["1\u00a01/2 cups of café", "a cup of coffee with milk", "cups of crème on the grass"],
]
FROZEN: dict[str, Any] = {
    "bleu": [0.7368576776964979, 0.6726559529045347, 0.6000875628107188, 0.4927945901986777],
    "rouge_l": [1.0, 1.0, 0.0, 0.3577712609970674, 0.9070631970260222],
    "cider_d": [5.3000206520051165, 2.8548461016864373, 0.0, 0.9279156301411161, 3.77125752612387],
}

WORDS = st.sampled_from(["a", "b", "c", "é", "1\u00a01/2", "日本"])
CAPTION = st.lists(WORDS, max_size=12).map(" ".join)
IMAGE = st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=10), st.booleans())


def measured(written: list[str], references: list[list[str]]) -> dict[str, Any]:
    pairs = CaptionPairs(written, references)
    return {
        "bleu": bleu(pairs.bleu_statistics().sum(0)),
        "rouge_l": pairs.rouge_l(),
        "cider_d": pairs.cider_d(),
        "cider": pairs.cider(),
    }


def by_pycocoevalcap(written: list[str], references: list[list[str]]) -> dict[str, Any]:
    if importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("pycocoevalcap is not installed: only its frozen answers are compared")
    theirs, ours = dict(enumerate(references)), {image: [text] for image, text in enumerate(written)}
    scorers = {name: importlib.import_module(f"pycocoevalcap.{name}.{name}") for name in ("bleu", "rouge", "cider")}
    return {
        "bleu": scorers["bleu"].Bleu(4).compute_score(theirs, ours, verbose=0)[0],
        "rouge_l": scorers["rouge"].Rouge().compute_score(theirs, ours)[1],
        "cider_d": scorers["cider"].Cider().compute_score(theirs, ours)[1],
    }


def test_frozen_answers() -> None:
    found = measured(WRITTEN, REFERENCES)
    for name, values in FROZEN.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_frozen_answers_are_those_of_pycocoevalcap() -> None:
    for name, values in by_pycocoevalcap(WRITTEN, REFERENCES).items():
        np.testing.assert_allclose(FROZEN[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(st.lists(IMAGE, min_size=1, max_size=8))
def test_any_corpus_is_measured_as_by_pycocoevalcap(images: list[tuple[str, list[str], bool]]) -> None:
    written = [text for text, _, _ in images]
    references = [[text] * len(texts) if copy else texts for text, texts, copy in images]
    if not any(text for texts in references for text in texts):
        return  # pycocoevalcap's CIDEr ends with an error where no reference has a word
    found = measured(written, references)
    for name, values in by_pycocoevalcap(written, references).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def test_cider_without_clipping_by_its_formula() -> None:
    """Over dictionaries, n-gram by n-gram (Vedantam et al. 2015, equations 1 to 3), times 10."""

    def grams(text: str, n: int) -> dict[tuple[str, ...], float]:
        words = text.split()
        found: dict[tuple[str, ...], float] = {}
        for start in range(len(words) - n + 1):
            gram = tuple(words[start : start + n])
            images = sum(any(_has(reference, gram) for reference in texts) for texts in REFERENCES)
            found[gram] = found.get(gram, 0) + math.log(len(REFERENCES) / max(1, images))
        return found

    def _has(text: str, gram: tuple[str, ...]) -> bool:
        words = text.split()
        return any(tuple(words[i : i + len(gram)]) == gram for i in range(len(words)))

    def cosine(a: dict[tuple[str, ...], float], b: dict[tuple[str, ...], float]) -> float:
        norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        return sum(value * b.get(gram, 0) for gram, value in a.items()) / norm if norm else 0.0

    expected = [
        np.mean([[cosine(grams(text, n), grams(reference, n)) for reference in texts] for n in range(1, 5)]) * 10
        for text, texts in zip(WRITTEN, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(CaptionPairs(WRITTEN, REFERENCES).cider(), expected, atol=1e-12)


def test_bleu_of_drawn_images_is_that_of_a_corpus_of_them() -> None:
    drawn = np.array([4, 0, 0, 3, 1])
    statistics = CaptionPairs(WRITTEN, REFERENCES).bleu_statistics()
    again = CaptionPairs([WRITTEN[i] for i in drawn], [REFERENCES[i] for i in drawn])
    assert bleu(statistics[drawn].sum(0)) == bleu(again.bleu_statistics().sum(0))


def test_the_most_typical_reference_has_the_highest_cider_of_all() -> None:
    pairs = CaptionPairs(WRITTEN, REFERENCES)
    everywhere = {
        text: CaptionPairs([text] * len(REFERENCES), REFERENCES).cider().mean()
        for texts in REFERENCES
        for text in texts
    }
    assert everywhere[pairs.most_typical()] == pytest.approx(max(everywhere.values()), abs=1e-12)
    assert len({round(value, 9) for value in everywhere.values()}) > 3


def test_images_without_references_are_refused() -> None:
    with pytest.raises(ValueError, match="2 captions and 1 images"):
        CaptionPairs(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="at least one reference"):
        CaptionPairs(["a"], [[]])


def test_what_needs_java_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for measure in (caption_programs.Meteor, lambda: caption_programs.spice(WRITTEN, REFERENCES)):
        with pytest.raises(UnavailableError, match=r"not measured: .* needs Java 8"):
            measure()


@pytest.mark.slow
def test_meteor_by_its_program() -> None:
    """Of any captions, drawn with repetition too, it is what pycocoevalcap gives for just these."""
    try:
        meteor = caption_programs.Meteor()
    except UnavailableError as error:
        pytest.skip(str(error))
    statistics = meteor.statistics(WRITTEN, REFERENCES)  # "a dog" is all that its reference says
    everything = list(range(len(WRITTEN)))
    for drawn in (everything, [0, 0, 2], [1], [1, 3], everything[::-1] * 2):
        corpus = {i: REFERENCES[row] for i, row in enumerate(drawn)}, {i: [WRITTEN[row]] for i, row in enumerate(drawn)}
        wanted = meteor._program.compute_score(*corpus)[0]
        assert meteor.score(statistics[drawn].sum(0)) == pytest.approx(wanted, rel=1e-12)
    assert meteor.score(meteor.statistics(["a red heart"], [["two dogs are running"]]).sum(0)) < 0.2
    assert meteor.score(meteor.statistics(["a red heart"], [["a red heart"]]).sum(0)) == pytest.approx(1)
    meteor._program.meteor_p.kill()
    with pytest.raises(UnavailableError, match="METEOR's program ended"):
        meteor.score(statistics.sum(0))
    with pytest.raises(UnavailableError, match="METEOR's program ended"):
        meteor.statistics(WRITTEN, REFERENCES)
