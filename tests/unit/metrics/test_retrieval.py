"""Ranks against brute force: ties, duplicates, one to seven captions per image, and blocks of any size."""

import itertools
import random

import pytest
import torch

from seed_dist.metrics.retrieval import chance_ranks, ranks_both_ways, retrieval_ranks

NAMES = ("better", "tied_wrong", "tied_right")


def by_a_loop(query, candidate, query_group, candidate_group):
    """[better, tied wrong, tied right] of each query, one product at a time in float64."""
    found = []
    for q, group in zip(query.double().tolist(), query_group.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(q, c, strict=True)) for c in candidate.double().tolist()]
        right = [other == group for other in candidate_group.tolist()]
        best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
        pairs = list(zip(scores, right, strict=True))
        found.append(
            [
                sum(score > best for score, _ in pairs),
                sum(score == best and not is_right for score, is_right in pairs),
                sum(score == best and is_right for score, is_right in pairs),
            ]
        )
    return found


@pytest.mark.parametrize("block", [(1, 1), (3, 5), (7, 64), (64, 7), (1024, 4096)])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_a_loop_over_all_pairs(seed, block):
    rng = random.Random(seed)
    images = 19
    owner = [image for image in range(images) for _ in range(rng.randint(1, 7))]
    rng.shuffle(owner)
    # Small whole numbers: exact products, many ties. And some rows again: duplicates of pictures and of captions.
    image = torch.tensor([[float(rng.randint(-2, 2)) for _ in range(3)] for _ in range(images)])
    text = torch.tensor([[float(rng.randint(-2, 2)) for _ in range(3)] for _ in owner])
    image[rng.randrange(images)], text[rng.randrange(len(owner))] = image[0], text[1]
    groups, owners = torch.arange(images), torch.tensor(owner)
    both = ranks_both_ways(image, text, groups, owners, block)
    for way, (query, candidate, of_query, of_candidate) in enumerate(
        ((image, text, groups, owners), (text, image, owners, groups))
    ):
        wanted = by_a_loop(query, candidate, of_query, of_candidate)
        for ranks in (retrieval_ranks(query, candidate, of_query, of_candidate, block), both[way]):
            assert torch.stack([getattr(ranks, name) for name in NAMES], dim=1).tolist() == wanted


def test_equal_vectors_tie_wherever_they_stand():
    """Real features: what a matrix product rounds must not break ties between copies in different blocks."""
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(50, 96), dim=1).repeat(9, 1)
    image = torch.nn.functional.normalize(text[:50] + 0.1 * torch.randn(50, 96), dim=1)
    for block in ((16, 64), (50, 450), (1024, 4096)):
        ranks = retrieval_ranks(image, text, torch.arange(50), torch.arange(450), block)
        assert (ranks.tied_wrong + ranks.tied_right == 9).all(), block


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
    ranks = retrieval_ranks(query, candidate, group, group)
    scores, right = (query @ candidate.T).tolist(), (group[:, None] == group[None]).tolist()
    for k in (1, 2, 3, 6):
        assert ranks.recall(k) == pytest.approx(brute_force_recall(scores, right, k), abs=1e-12)


def test_several_captions_per_image():
    # One image, right captions at places 3 and 5 of 5: found within 3, not within 2.
    query, candidate = torch.tensor([[1.0]]), torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]])
    ranks = retrieval_ranks(query, candidate, torch.tensor([7]), torch.tensor([1, 2, 7, 3, 7]))
    assert [ranks.recall(k) for k in (1, 2, 3, 5)] == [0, 0, 1, 1]


def test_constant_scores_give_exactly_chance():
    groups = torch.arange(40)
    constant = retrieval_ranks(torch.ones(40, 3), torch.ones(40, 3), groups, groups)
    for k in (1, 5, 10):
        assert constant.recall(k) == pytest.approx(k / 40)
        assert chance_ranks(groups, groups).recall(k) == pytest.approx(k / 40)


def test_chance_counts_repeated_captions():
    groups = torch.tensor([0, 0, 1, 2])
    # Queries of group 0 succeed with 2 of 4, the others with 1 of 4.
    assert chance_ranks(groups, groups).recall(1) == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)


def test_query_without_right_candidate_is_refused():
    with pytest.raises(ValueError, match="no right candidate"):
        retrieval_ranks(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]), torch.tensor([1]))
