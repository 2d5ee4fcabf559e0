"""What a language model writes after prompts of words and images: batches of any lengths, with a cache, one token each.

The loop is our own because transformers' embeds ids by the base's table, which has no rows for image codes. How tokens
are chosen is transformers' own: its logits processors, to which `WholeImages` adds the grammar of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from seed_dist.errors import DataError


class TokenModel(Protocol):
    """What the loop asks of a model."""

    @property
    def positions(self) -> int | None:
        """How many tokens a row may have, where the model has a limit."""

    @property
    def device(self) -> torch.device: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def hidden(self, embeddings: Tensor, **context: Any) -> Any: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen and where it ends.

    It ends with its first `stop` token, after `max_new` tokens, or where the model's positions end. Temperature 0 takes
    the most likely token; otherwise tokens are drawn from the most likely ones that hold `top_p` of the probability,
    as a function of `seed` and the batch. `grammar` is applied first.
    """

    stop: int
    max_new: int
    grammar: LogitsProcessor | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class WholeImages(LogitsProcessor):  # type: ignore[misc]  # transformers' has no types
    """Lets no token through that would break an image: after the begin mark exactly `queries` codes and the end mark,
    elsewhere words and begin marks only.

    Works in transformers' own `generate` of a merged model too. Ids: words below `first_code`, then `codes` codes, the
    begin and the end mark.
    """

    def __init__(self, first_code: int, codes: int, queries: int) -> None:
        self.first_code, self.codes, self.queries = first_code, codes, queries

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`input_ids` [B, T] with the prompt, `scores` [B, V] of the next token -> scores, -inf where not allowed."""
        begin, end = self.first_code + self.codes, self.first_code + self.codes + 1
        place = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        opened = ((input_ids == begin) * place).amax(1, keepdim=True)  # place of the last begin mark, 0 = none
        closed = ((input_ids == end) * place).amax(1, keepdim=True)
        written = input_ids.shape[1] - opened
        token = torch.arange(scores.shape[1], device=scores.device)
        inside = torch.where(written < self.queries, (token >= self.first_code) & (token < begin), token == end)
        outside = (token < self.first_code) | (token == begin)
        return scores.masked_fill(~torch.where(opened > closed, inside, outside), -torch.inf)


class WordsAlone(LogitsProcessor):  # type: ignore[misc]  # as above
    """Lets words through and nothing of an image: ids from `first_code` on are refused."""

    def __init__(self, first_code: int) -> None:
        self.first_code = first_code

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """As of `WholeImages`."""
        words = torch.arange(scores.shape[1], device=scores.device) < self.first_code
        return scores.masked_fill(~words, -torch.inf)


@torch.inference_mode()
def generate(model: TokenModel, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Continuations of prompts (token ids, at least one each), each up to and with its `stop` token.

    Prompts of different lengths are padded on the left; in fp32 a continuation does not depend on its batch, except
    where two tokens are equally likely to within rounding. Raises DataError for a prompt that has no room.
    """
    if not prompts:
        return []
    ids, mask = (part.to(model.device) for part in _left_padded(prompts))
    lengths = mask.sum(1)
    limits = _limits(model, lengths, decoding.max_new)
    is_padded = bool((mask == 0).any())
    # Without padding neither mask nor positions are needed, and attention can take its fastest way.
    context: dict[str, Tensor] = {}
    if is_padded:
        context = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
    choose, cache, done = _Choice(decoding, model.device), None, torch.zeros_like(lengths, dtype=torch.bool)
    tokens, start = ids, ids.shape[1]
    for written in range(1, int(limits.max()) + 1):
        state = model.hidden(model.embed(tokens), past_key_values=cache, use_cache=True, **context)
        cache = state.past_key_values
        tokens = choose(ids, model.logits(state.last_hidden_state[:, -1]))
        ids = torch.cat([ids, tokens], dim=1)
        done |= (tokens[:, 0] == decoding.stop) | (written >= limits)
        if bool(done.all()):
            break
        if is_padded:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            place = lengths + written - 1
            # A row that is done goes on with the others and is cut below; its positions may have ended.
            place = place if model.positions is None else place.clamp_max(model.positions - 1)
            context = {"attention_mask": mask, "position_ids": place[:, None]}
    rows = [row[:limit] for row, limit in zip(ids[:, start:].tolist(), limits.tolist(), strict=True)]
    return [row[: row.index(decoding.stop) + 1] if decoding.stop in row else row for row in rows]


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask (1 = token), int64 [B, T]."""
    length = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(prompts), length, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        assert prompt, "a continuation needs something to continue"
        ids[i, length - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, length - len(prompt) :] = 1
    return ids, mask


def _limits(model: TokenModel, lengths: Tensor, max_new: int) -> Tensor:
    """How many tokens each row may get, int64 [B]; the last one is not fed back, so it needs no position."""
    if model.positions is None:
        return torch.full_like(lengths, max_new)
    longest = int(lengths.max())
    if longest > model.positions:
        raise DataError(
            f"a prompt has {longest} tokens, but this language model has {model.positions} positions. Shorten the "
            "prompt, or leave out its earliest images."
        )
    return (model.positions - lengths + 1).clamp_max(max_new)


class _Choice:
    """The next token of each row, from all ids so far [B, T] and scores [B, V]: int64 [B, 1]."""

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
        self._processors = LogitsProcessorList([decoding.grammar] if decoding.grammar is not None else [])
        self._generator: torch.Generator | None = None
        if decoding.temperature > 0:
            self._generator = torch.Generator(device).manual_seed(decoding.seed)
            self._processors += [TemperatureLogitsWarper(decoding.temperature), TopPLogitsWarper(decoding.top_p)]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = cast(Tensor, self._processors(ids, scores))
        if self._generator is None:
            return scores.argmax(-1, keepdim=True)
        return torch.multinomial(scores.float().softmax(-1), 1, generator=self._generator)
