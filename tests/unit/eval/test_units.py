"""Intervals of figures that know their units: they cover what they should, and nothing is said where nothing can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seed_dist.eval import attributes, retrieval
from seed_dist.eval.figures import BASES, described
from seed_dist.eval.results import Results
from seed_dist.eval.units import PerUnit, intervals, per_unit_figures, share
from seed_dist.metrics import bootstrap


def test_a_figure_is_a_number_that_knows_its_units() -> None:
    figure = PerUnit([1, 0, 2, 0], [2, 0, 2, 1])
    assert figure == 3 / 5
    assert f"{figure:.2f}" == "0.60"
    assert figure.n == 3  # nothing was asked in the second unit
    assert PerUnit([1, 1, 0]) == pytest.approx(2 / 3)
    assert share([0, 0], [0, 0]) is None
    tree = {"a": {"b": figure, "c": 0.5}, "d": PerUnit([1])}
    assert per_unit_figures(tree) == {"a.b": figure, "d": 1}


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    hits = np.arange(400) < 300
    low, high = intervals({"x": PerUnit(hits)}, 4000, 0)["x"] or (0, 0)
    error = (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - 1.96 * error, abs=0.006)
    assert high == pytest.approx(0.75 + 1.96 * error, abs=0.006)


def test_a_ratio_is_resampled_as_a_whole() -> None:
    """Both sums meet the same draw: a ratio of two equal rows does not move at all, of unequal ones it does."""
    asked, right = np.array([1.0, 2, 2, 1, 2] * 20), np.array([1.0, 2, 0, 0, 1] * 20)
    assert intervals({"same": PerUnit(asked, asked)}, 300, 3) == {"same": (1.0, 1.0)}
    found = intervals({"ratio": PerUnit(right, asked)}, 300, 3)["ratio"]
    drawn = bootstrap.resampled_by(lambda rows: right[rows].sum() / asked[rows].sum(), 100, 300, 3)
    assert found == pytest.approx(bootstrap.interval(drawn))


def test_without_anything_asked_in_a_draw_there_is_no_interval() -> None:
    assert intervals({"rare": PerUnit([1, 0, 0], [1, 0, 0])}, 200, 0) == {"rare": None}


def test_words_of_a_caption_are_drawn_together() -> None:
    """Colours are counted by object, but a caption is drawn as a whole."""
    two = "a red star left of a blue moon on white"
    scores = attributes.score_captions([two, "a red star on black"], [two, "a blue star on black"])
    assert scores["colour"].parts.tolist() == [2, 0]
    assert scores["colour"].wholes.tolist() == [2, 1]
    assert scores["relation"].n == 1


def test_every_figure_carries_what_it_rests_on(believable: Results) -> None:
    figures, bases = believable.numbers["figures"], believable.numbers["bases"]
    assert set(bases) <= set(BASES)
    recall = figures["retrieval.codes_of_embedding"]
    assert recall["interval"][0] < recall["value"] < recall["interval"][1]
    assert recall["basis"] == "retrieval.codes"
    assert figures["heldout_pairs.caption.colour"]["split"] == "heldout"
    assert figures["heldout_pairs.caption.colour"]["chance"] == believable.numbers["caption"]["chance"]["colour"]
    assert figures["retrieval.embedding.i2t.r1"]["chance"] == believable.numbers["retrieval"]["chance"]["i2t"]["r1"]
    for path, figure in figures.items():
        assert figure["n"] > 0, path
        assert figure["interval"] is not None or figure["note"], path
        assert figure["data"] or figure["split"] == "heldout", path
        assert {"protocol", "stages", "frozen", "seed"} <= bases[figure["basis"]].keys()
    assert bases["retrieval.codes"]["stages"]["codebook"] == "feed"
    other = described(believable.numbers | {"provenance": {"seed": 1}})
    assert other["figures"]["caption.colour"]["interval"] != figures["caption.colour"]["interval"]


def test_recalls_of_one_picture_are_one_unit() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 8)
    scores = retrieval.score(features, features + torch.randn(50, 8), [f"c{i}" for i in range(50)])
    parts = [scores[way][f"r{k}"].parts for way in ("i2t", "t2i") for k in retrieval.KS]
    assert scores["r_mean"].parts == pytest.approx(np.mean(parts, axis=0))
