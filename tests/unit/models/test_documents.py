"""Rows of documents: none is cut, none is lost, and none sees another."""

from __future__ import annotations

import random

import torch

from seed_dist.models.documents import IGNORE, Document, batch_of, packed, separate_attention


def test_packing_cuts_and_loses_nothing_and_leaves_no_row_that_another_could_hold() -> None:
    rng = random.Random(0)
    for _ in range(50):
        documents = [Document([rng.randrange(99)] * rng.randint(2, 12), 1) for _ in range(rng.randint(1, 20))]
        rows = packed(documents, 12)
        assert sorted(id(document) for row in rows for document in row) == sorted(map(id, documents))
        sizes = [sum(len(document.ids) for document in row) for row in rows]
        assert max(sizes) <= 12
        assert sum(size <= 6 for size in sizes) <= 1  # else the later of two would have gone into the earlier
        assert packed(documents, 12) == rows


def test_a_packed_batch_is_its_documents_one_after_the_other() -> None:
    first, second, third = Document([5, 6, 7], 2), Document([8, 9], 1), Document([1, 2, 3, 4], 3)
    batch = batch_of([[first, second], [third]], pad=0)
    n = IGNORE
    assert batch["ids"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]]
    assert batch["documents"].tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[n, n, 7, n, 9], [n, n, n, 4, n]]


def test_a_token_sees_the_tokens_before_it_in_its_document_alone() -> None:
    context = separate_attention(torch.tensor([[1, 1, 1, 2, 2, 0]]))
    assert context["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert context["attention_mask"].shape == (1, 1, 6, 6)
    seen = [row.nonzero().flatten().tolist() for row in context["attention_mask"][0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [3], [3, 4], [5]]
