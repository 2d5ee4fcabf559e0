"""Captions compared word by word, and attributes read off embeddings, on cases small enough to count by hand."""

import pytest
import torch

from seed_dist.eval import attributes, reader
from seed_dist.glyphs.scenes import WORDS, parse_caption

VOCABULARY = [*WORDS, "some", "dog"]
TWO = "a red star left of a blue moon on white"


def words(answer, truth=TWO):
    scene = parse_caption(truth)
    return {
        f"{name}:{word}": right
        for (name, word), right in zip(
            attributes.words_asked(scene), attributes.words_right(scene, parse_caption(answer)), strict=True
        )
    }


def test_words_right():
    assert all(words(TWO).values())
    assert len(words(TWO)) == 6
    assert not any(words("a red star left of").values())
    assert words("a red moon above a blue moon on white") == {
        "colour:red": True, "glyph:star": False, "colour:blue": True, "glyph:moon": True, "relation:left": False,
        "background:white": True,
    }  # fmt: skip
    # The right objects in exchanged places are wrong; a missing object is wrong.
    assert sum(words("a blue moon left of a red star on white").values()) == 2
    assert sum(words("a red star on white").values()) == 3
    # One object has no relation to be asked for; a second one in the answer does not hurt its attributes.
    assert words(TWO, truth="a red star on white") == {"colour:red": True, "glyph:star": True, "background:white": True}


def test_score_captions_counts_objects_and_scenes():
    truths = [TWO, "a red star on black", "a red star on black"]
    answers = [TWO, "a green star on black", "a red star on black on"]
    scores = attributes.score_captions(answers, truths)
    assert scores == {"exact": 1 / 3, "colour": 2 / 4, "glyph": 3 / 4, "relation": 1, "background": 2 / 3}


def test_captions_of_other_data_score_exactness_only():
    scores = attributes.score_captions(["a dog runs", "a cat"], ["a  dog runs", "two cats"])
    assert scores["exact"] == 0.5
    assert scores["unscored"] == attributes.NO_GRAMMAR
    assert scores["colour"] is scores["glyph"] is scores["relation"] is scores["background"] is None


def test_chance_is_the_most_frequent_answer():
    truths = [TWO, "a red star on black", "a red sun on black"]
    chance = attributes.chance_captions(truths)
    assert chance == {"exact": 1 / 3, "colour": 3 / 4, "glyph": 2 / 4, "relation": 1, "background": 2 / 3}
    assert attributes.chance_captions(["free text"])["colour"] is None


def bag_of_places(texts):
    """An embedding in which each (place, word) has a direction of its own, so that equal captions alone match best."""
    vectors = torch.zeros(len(texts), 16, len(VOCABULARY))
    for row, text in enumerate(texts):
        for place, word in enumerate(text.split()):
            vectors[row, place, VOCABULARY.index(word)] = 1
    return vectors.flatten(1)


def test_reader_finds_the_words_that_differ():
    captions = [TWO, "a green sun on grey", "some dog"]
    judge = reader.AttributeReader(captions, bag_of_places)
    assert [len(asked) for asked in judge.questions] == [6, 3, 0]
    painted = ["a red star left of a blue sun on black", "a pink sun on grey", "some dog"]
    readings = judge.read([0, 1, 2], bag_of_places(painted))
    assert [(r.attribute, r.wanted, r.read) for r in readings[0] if not r.right] == [
        ("glyph", "moon", "sun"), ("background", "white", "black"),
    ]  # fmt: skip
    scores = reader.score_readings(readings)
    assert scores == {"colour": 2 / 3, "glyph": 2 / 3, "relation": 1, "background": 1 / 2}
    # A picture that could not be made has all its attributes wrong.
    with_unmade = reader.score_readings(readings[:1], [judge.questions[1]])
    assert with_unmade["colour"] == pytest.approx(2 / 3)
    assert with_unmade["background"] == 0


def test_reader_offers_every_option_once():
    asked = {q.attribute: q for q in reader.questions(parse_caption(TWO))}
    assert [len(asked[name].options) for name in attributes.ATTRIBUTES] == [8, 32, 2, 4]
    for question in asked.values():
        assert TWO in question.texts
        assert len(set(question.texts)) == len(question.options)


def test_reader_of_other_data_has_no_questions():
    judge = reader.AttributeReader(["some dog"], bag_of_places)
    scores = reader.score_readings(judge.read([0], torch.ones(1, 8)))
    assert scores["colour"] is None
    assert scores["unscored"] == attributes.NO_GRAMMAR
