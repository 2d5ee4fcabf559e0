"""Documents as rows of a batch: one per row, or several without attention between them. A document is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # label of a position that is not scored (torch's cross-entropy convention)


@dataclass(frozen=True)
class Document:
    """Token ids, of which those from `scored_from` (at least 1) on are predicted."""

    ids: list[int]
    scored_from: int


def packed(documents: Sequence[Document], max_tokens: int) -> list[list[Document]]:
    """Rows of at most `max_tokens` tokens: each document goes into the first row that has room for it, else into a new
    one. A function of the documents and their order alone."""
    rows: list[list[Document]] = []
    room: list[int] = []
    for document in documents:
        size = len(document.ids)
        row = next((i for i, left in enumerate(room) if left >= size), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[row].append(document)
        room[row] -= size
    return rows


def batch_of(rows: Sequence[Sequence[Document]], pad: int) -> dict[str, Tensor]:
    """Rows padded on the right to the longest, int64 [R, T].

    `ids`; `documents`: 1, 2, ... for the documents of a row, 0 for padding; `labels`: `ids` where scored, else IGNORE.
    """
    length = max(sum(len(document.ids) for document in row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    numbers = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORE)
    for i, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row, 1):
            end = start + len(document.ids)
            ids[i, start:end] = torch.tensor(document.ids)
            numbers[i, start:end] = number
            first = start + document.scored_from
            labels[i, first:end] = ids[i, first:end]
            start = end
    return {"ids": ids, "documents": numbers, "labels": labels}


def separate_attention(documents: Tensor) -> dict[str, Any]:
    """What keeps the documents of a row apart, from their numbers [R, T]: a mask of which tokens see which (bool
    [R, 1, T, T]) and positions that start at 0 in each document ([R, T]).

    transformers finds packed rows by itself for LLaMA but not for OPT (5.23), so both get the mask. Padding sees
    padding: a token that sees nothing would be a division by zero.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    seen = (documents[:, :, None] == documents[:, None, :]) & causal
    return {"attention_mask": seen[:, None], "position_ids": seen.sum(-1) - 1}
