"""Beam search over a batch of prompts, as transformers does it with `num_beams` and `early_stopping=False`.

A hypothesis that ended scores its log-probability over its tokens (the end among them) to the power of the length
penalty. A row is done when it has as many of them as beams and none of its running ones, at its present length, is
better than the worst. Only what is among the best `beams` candidates may end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seed_dist.models.token_passes import TokenPasses

Allowed = Callable[[Tensor, Tensor], Tensor]  # ids so far [rows, T], log-probabilities [rows, V] -> the same


@dataclass(frozen=True)
class Candidate:
    """A beam with one more token, and the log-probability of all tokens that were written."""

    score: float
    beam: int
    token: int


@dataclass
class _Row:
    """The search after one prompt. `ended`: score and tokens of the best hypotheses, best first."""

    limit: int
    beams: int
    length_penalty: float
    stop: int
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def step(self, candidates: Sequence[Candidate], written: list[list[int]]) -> list[Candidate]:
        """What goes on, at most `beams`, of twice as many candidates, best first. `written`: tokens of each beam."""
        length = len(written[0]) + 1
        running = []
        for rank, candidate in enumerate(candidates):
            if candidate.token == self.stop or length == self.limit:
                if rank < self.beams:
                    tokens = [*written[candidate.beam], candidate.token]
                    self.ended.append((candidate.score / length**self.length_penalty, tokens))
            else:
                running.append(candidate)
        self.ended = sorted(self.ended, key=lambda hypothesis: -hypothesis[0])[: self.beams]
        best = running[0].score / length**self.length_penalty if running else -math.inf
        self.done = not running or (len(self.ended) == self.beams and best <= self.ended[-1][0])
        return [] if self.done else running[: self.beams]


@torch.inference_mode()
def beam_search(
    passes: TokenPasses, limits: Tensor, beams: int, length_penalty: float, stop: int, allowed: Allowed
) -> list[list[int]]:
    """The best continuation of each prompt, up to and with its `stop` token or `limits` int64 [B] tokens.

    `allowed` may set log-probabilities to -inf, of tokens that must not follow.
    """
    rows = [_Row(int(limit), beams, length_penalty, stop) for limit in limits]
    ids, start = passes.prompts, passes.prompts.shape[1]
    scores, width = passes.scores(ids), 1
    running = torch.zeros(len(rows), 1, device=ids.device)
    while True:
        following = running.flatten()[:, None] + allowed(ids, scores.float().log_softmax(-1))
        vocabulary = following.shape[1]
        best = following.view(len(rows), -1).topk(min(2 * beams, width * vocabulary))
        chosen: list[list[Candidate]] = []
        for row, values, places in zip(rows, best.values.tolist(), best.indices.tolist(), strict=True):
            own = ids[len(chosen) * width : (len(chosen) + 1) * width, start:].tolist()
            found = [Candidate(v, *divmod(p, vocabulary)) for v, p in zip(values, places, strict=True) if v > -math.inf]
            going = [] if row.done else row.step(found, own)
            # A row keeps its number of beams; those that are missing have no probability.
            chosen.append(going + [Candidate(-math.inf, 0, 0)] * (beams - len(going)))
        if all(row.done for row in rows):
            return [row.ended[0][1] for row in rows]
        flat = [(number * width + one.beam, one.token) for number, row in enumerate(chosen) for one in row]
        parents, tokens = torch.tensor(flat, device=ids.device).T
        running = torch.tensor([[one.score for one in row] for row in chosen], device=ids.device)
        ids = torch.cat([ids[parents], tokens[:, None]], dim=1)
        passes.rearrange(parents)
        scores, width = passes.scores(tokens[:, None]), beams
