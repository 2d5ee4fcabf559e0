"""What a language model writes after prompts of words and images: batches of any lengths, with a cache, one token each.

The loop is our own because transformers' embeds ids by the base's table, which has no rows for image codes. How tokens
are chosen is transformers' own: its logits processors, to which `WholeImages` adds the grammar of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from seed_dist.errors import ConfigError
from seed_dist.models.beam_search import beam_search
from seed_dist.models.token_passes import TokenModel, TokenPasses


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen and where it ends.

    It ends with its first `stop` token, after `max_new` tokens, or where the model's positions end. Temperature 0 takes
    the most likely token; otherwise tokens are drawn from the most likely ones that hold `top_p` of the probability,
    as a function of `seed` and the batch. `grammar` is applied first.

    More than one of `beams` searches for the likeliest continuation instead (`seed_dist.models.beam_search`):
    log-probability over tokens to the power of `length_penalty`, so that 0 prefers short ones, and 1 is transformers'.
    `grammar` holds there too. Raises ConfigError for beams with a temperature.
    """

    stop: int
    max_new: int
    grammar: LogitsProcessor | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1 or (self.beams > 1 and self.temperature > 0):
            found = f"{self.beams} beams and temperature {self.temperature}"
            raise ConfigError([f"decoding has {found}; 1 beam or more is needed, and several only at temperature 0"])


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
    passes = TokenPasses(model, prompts)
    limits = passes.limits(decoding.max_new)
    processors = LogitsProcessorList([decoding.grammar] if decoding.grammar is not None else [])
    if decoding.beams > 1:
        return beam_search(passes, limits, decoding.beams, decoding.length_penalty, decoding.stop, processors)
    choose, done = _Choice(processors, decoding, model.device), torch.zeros_like(limits, dtype=torch.bool)
    ids = tokens = passes.prompts
    start = ids.shape[1]
    for written in range(1, int(limits.max()) + 1):
        tokens = choose(ids, passes.scores(tokens))
        ids = torch.cat([ids, tokens], dim=1)
        done |= (tokens[:, 0] == decoding.stop) | (written >= limits)
        if bool(done.all()):
            break
    rows = [row[:limit] for row, limit in zip(ids[:, start:].tolist(), limits.tolist(), strict=True)]
    return [row[: row.index(decoding.stop) + 1] if decoding.stop in row else row for row in rows]


class _Choice:
    """The next token of each row, from all ids so far [B, T] and scores [B, V]: int64 [B, 1]."""

    def __init__(self, processors: LogitsProcessorList, decoding: Decoding, device: torch.device) -> None:
        self._processors = processors
        self._generator: torch.Generator | None = None
        if decoding.temperature > 0:
            self._generator = torch.Generator(device).manual_seed(decoding.seed)
            self._processors += [TemperatureLogitsWarper(decoding.temperature), TopPLogitsWarper(decoding.top_p)]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = cast(Tensor, self._processors(ids, scores))
        if self._generator is None:
            return scores.argmax(-1, keepdim=True)
        return torch.multinomial(scores.float().softmax(-1), 1, generator=self._generator)
