"""Passes of a language model over a batch of prompts of any lengths and then token by token, with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from seed_dist.errors import DataError


class TokenModel(Protocol):
    """What writing asks of a model."""

    @property
    def positions(self) -> int | None:
        """How many tokens a row may have, where the model has a limit."""

    @property
    def device(self) -> torch.device: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def hidden(self, embeddings: Tensor, **context: Any) -> Any: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


class TokenPasses:
    """Prompts (token ids, at least one each), padded on the left, and what was written after them.

    `prompts` int64 [B, T] has zeros where it is padded. In fp32 the scores of a row do not depend on its batch to
    within rounding.
    """

    def __init__(self, model: TokenModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self.prompts, self._mask = (part.to(model.device) for part in _left_padded(prompts))
        self._lengths = self._mask.sum(1)
        # Without padding neither mask nor positions are needed, and attention can take its fastest way.
        self._is_padded = bool((self._mask == 0).any())
        self._cache: Any = None
        self._written = 0

    def limits(self, max_new: int) -> Tensor:
        """How many tokens each row may get, int64 [B]; the last one is not fed back, so it needs no position.

        Raises DataError for a prompt that has no room.
        """
        positions = self._model.positions
        if positions is None:
            return torch.full_like(self._lengths, max_new)
        longest = int(self._lengths.max())
        if longest > positions:
            raise DataError(
                f"a prompt has {longest} tokens, but this language model has {positions} positions. Shorten the "
                "prompt, or leave out its earliest images."
            )
        return (positions - self._lengths + 1).clamp_max(max_new)

    def scores(self, tokens: Tensor) -> Tensor:
        """Scores of each row's next token [B, V], once `tokens` are read: first the prompts, then one token a row."""
        state = self._model.hidden(
            self._model.embed(tokens), past_key_values=self._cache, use_cache=True, **self._context()
        )
        self._cache = state.past_key_values
        self._written += 1
        return self._model.logits(state.last_hidden_state[:, -1])

    def rearrange(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [B']: in another order, repeated, or fewer of them."""
        self._cache.reorder_cache(rows)
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]

    def _context(self) -> dict[str, Tensor]:
        if not self._is_padded:
            return {}
        if self._written == 0:
            return {"attention_mask": self._mask, "position_ids": (self._mask.cumsum(1) - 1).clamp_min(0)}
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        place = self._lengths + self._written - 1
        # A row that is done goes on with the others and is cut later; its positions may have ended.
        place = place if self._model.positions is None else place.clamp_max(self._model.positions - 1)
        return {"attention_mask": self._mask, "position_ids": place[:, None]}


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask (1 = token), int64 [B, T]."""
    length = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(prompts), length, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        assert prompt, "a continuation needs something to continue"
        ids[i, length - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, length - len(prompt) :] = 1
    return ids, mask
