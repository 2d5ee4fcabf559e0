"""Ranks and recalls against brute force, ties and repeated captions included; cosines and perplexity."""

import itertools
import math
import random

import pytest
import torch

from seed_dist.errors import DataError
from seed_dist.eval import metrics, retrieval


def brute_force_recall(scores, right, k):
    """Mean over queries of the share of tie-breaking orders with a right candidate among the first k."""
    hits = []
    for row, flags in zip(scores, right, strict=True):
        orders = [
            order
            for order in itertools.permutations(range(len(row)))
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
        ]
        assert orders
        hits.append(sum(any(flags[i] for i in order[:k]) for order in orders) / len(orders))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(6))
def test_recall_equals_enumeration_of_tie_breaking_orders(seed):
    rng = random.Random(seed)
    n = 6
    # Whole numbers in one dimension give many ties; groups give repeated captions.
    query = torch.tensor([[float(rng.randint(1, 2))] for _ in range(n)])
    candidate = torch.tensor([[float(rng.randint(0, 2))] for _ in range(n)])
    group = torch.tensor([rng.randint(0, 3) for _ in range(n)])
    ranks = metrics.retrieval_ranks(query, candidate, group, group)
    scores, right = (query @ candidate.T).tolist(), (group[:, None] == group[None]).tolist()
    for k in (1, 2, 3, 6):
        assert ranks.recall(k) == pytest.approx(brute_force_recall(scores, right, k), abs=1e-12)


def test_blocks_do_not_change_ranks(monkeypatch):
    torch.manual_seed(0)
    query, candidate, group = torch.randn(23, 4), torch.randn(23, 4), torch.randint(0, 15, (23,))
    whole = metrics.retrieval_ranks(query, candidate, group, group)
    monkeypatch.setattr(metrics, "_BLOCK_QUERIES", 5)
    blocks = metrics.retrieval_ranks(query, candidate, group, group)
    for name in ("better", "tied_wrong", "tied_right"):
        assert torch.equal(getattr(whole, name), getattr(blocks, name))


def test_several_captions_per_image():
    # One image, right captions at places 3 and 5 of 5: found within 3, not within 2.
    query, candidate = torch.tensor([[1.0]]), torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]])
    ranks = metrics.retrieval_ranks(query, candidate, torch.tensor([7]), torch.tensor([1, 2, 7, 3, 7]))
    assert [ranks.recall(k) for k in (1, 2, 3, 5)] == [0, 0, 1, 1]


def test_constant_scores_give_exactly_chance():
    captions = [f"caption {i}" for i in range(40)]
    groups = metrics.text_groups(captions)
    constant = metrics.retrieval_ranks(torch.ones(40, 3), torch.ones(40, 3), groups, groups)
    for k in (1, 5, 10):
        assert constant.recall(k) == pytest.approx(k / 40)
        assert metrics.chance_ranks(groups, groups).recall(k) == pytest.approx(k / 40)


def test_chance_counts_repeated_captions():
    groups = metrics.text_groups(["a", "a", "b", "c"])
    # Queries of "a" succeed with 2 of 4, the others with 1 of 4.
    assert metrics.chance_ranks(groups, groups).recall(1) == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)


def test_text_groups_ignore_white_space_only():
    assert metrics.text_groups(["a b", "a  b\n", "a c", "A b"]).tolist() == [0, 0, 1, 2]


def test_query_without_right_candidate_is_refused():
    with pytest.raises(ValueError, match="no right candidate"):
        metrics.retrieval_ranks(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]), torch.tensor([1]))


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
    expected = metrics.retrieval_ranks(text, image, groups[:30], groups[30:])
    assert retrieval.score_shuffled(image, text, captions, seed=3)["t2i"]["r5"] == expected.recall(5)


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
    assert metrics.standard_error(0.5, 100) == pytest.approx(0.05)
