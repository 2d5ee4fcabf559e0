"""Recalls of the report's retrieval, cosines and perplexity."""

import math

import pytest
import torch

from seed_dist.errors import DataError
from seed_dist.eval import metrics, retrieval
from seed_dist.metrics.retrieval import retrieval_ranks


def test_text_groups_ignore_white_space_only():
    assert metrics.text_groups(["a b", "a  b\n", "a c", "A b"]).tolist() == [0, 0, 1, 2]


def test_perfect_and_shuffled_retrieval():
    torch.manual_seed(0)
    features, captions = torch.randn(200, 32), [f"caption {i}" for i in range(200)]
    perfect = retrieval.score(features, features, captions)
    assert perfect["r_mean"] == 1
    assert perfect["i2t"] == perfect["t2i"] == {"r1": 1, "r5": 1, "r10": 1}
    shuffled = retrieval.score_shuffled(features, features, captions, seed=0)
    assert shuffled["i2t"]["r1"] < 0.05
    assert shuffled["r_mean"] < 0.1
    # Twins: with equal captions the image of either is right.
    twins = retrieval.score(features[[1, 0, 2]], features[:3], ["same", "same", "other"])
    assert twins["i2t"]["r1"] == twins["t2i"]["r1"] == 1
    assert retrieval.score(features[[1, 0, 2]], features[:3], ["one", "two", "other"])["i2t"]["r1"] == pytest.approx(
        1 / 3
    )


def test_shuffling_is_a_renaming_of_the_right_answers():
    torch.manual_seed(1)
    image, text, captions = torch.randn(30, 8), torch.randn(30, 8), [f"c{i % 25}" for i in range(30)]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3)).tolist()
    renamed = [captions[i] for i in order]
    groups = metrics.text_groups(captions + renamed)
    expected = retrieval_ranks(text, image, groups[:30], groups[30:])
    assert retrieval.score_shuffled(image, text, captions, seed=3)["t2i"]["r5"] == pytest.approx(expected.recall(5))


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(DataError, match="not finite"):
        retrieval.score(torch.full((2, 3), math.nan), torch.ones(2, 3), ["a", "b"])


def test_queries_show_hits_and_misses():
    image, text = torch.eye(6), torch.eye(6)[[0, 1, 2, 3, 5, 4]]
    shown = retrieval.queries(image, text, list("abcdef"), shown=4, depth=3)
    assert [q.is_hit for q in shown] == [True, True, False, False]
    assert shown[2].row == 4
    assert shown[2].found[0] == 5
    assert len(shown[2].found) == 3
    all_hits = retrieval.queries(image, image, list("abcdef"), shown=4, depth=3)
    assert [q.row for q in all_hits] == [0, 1, 2, 3]
    assert all(q.is_hit for q in all_hits)
    no_hits = retrieval.queries(image, image[[1, 2, 3, 4, 5, 0]], list("abcdef"), shown=4, depth=3)
    assert len(no_hits) == 4
    assert not any(q.is_hit for q in no_hits)


def test_perplexity_of_known_distributions():
    assert metrics.perplexity(torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert metrics.perplexity(torch.tensor([7, 0, 0])) == pytest.approx(1)
    assert metrics.perplexity(torch.tensor([3, 1])) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_mean_cosine():
    assert metrics.mean_cosine(torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [0, 2]])) == pytest.approx(0.5)
