"""Operations of the parts that models are made of: 2 for each multiply-add of a matrix product, nothing else.

That is how torch's FlopCounterMode counts, which the tests compare with. A backward pass has two products for each of
the forward pass: one gives the gradient of the weights, the other that of the input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Flops(NamedTuple):
    """Operations of a forward and a backward pass."""

    forward: int
    backward: int

    @property
    def both(self) -> int:
        return self.forward + self.backward

    def times(self, count: int) -> Flops:
        return Flops(self.forward * count, self.backward * count)


NOTHING = Flops(0, 0)


def add(parts: Iterable[Flops]) -> Flops:
    pairs = list(parts)
    return Flops(sum(part.forward for part in pairs), sum(part.backward for part in pairs))


def linear(rows: int, inputs: int, outputs: int, products_back: int = 2) -> Flops:
    """`products_back` is 1 where the weights are frozen or the input needs no gradient."""
    forward = 2 * rows * inputs * outputs
    return Flops(forward, products_back * forward)


def attention(batch: int, queries: int, keys: int, width: int) -> Flops:
    """Scores and mixture over all heads. A causal mask saves nothing: the whole square is computed and masked."""
    forward = 4 * batch * queries * keys * width
    return Flops(forward, 2 * forward)


def is_memory_cheaper(queries: int, memory_length: int, head_width: int) -> bool:
    """The choice of `models.memory_attention.is_cheaper`, which cannot be imported without torch."""
    return queries * (1 / head_width + 1 / memory_length) < 1


def memory_attention(batch: int, queries: int, memory: tuple[int, int], width: int, heads: int) -> Flops:
    """`models.memory_attention.attend_memory` with a memory of (length, width) that needs no gradient.

    Forward: queries to the memory's width, scores, mixture, and back to their own width. Backward: two products for
    each projection, and one for the scores and the mixture each.
    """
    length, memory_width = memory
    projections = 4 * batch * queries * memory_width * width
    readings = 4 * batch * queries * memory_width * heads * length
    return Flops(projections + readings, 2 * projections + readings)


def memory_gradient(batch: int, queries: int, memory: tuple[int, int], width: int, heads: int) -> Flops:
    """What `attend_memory` computes besides when the memory needs a gradient: two products with the length of the
    memory, and the keys' projection of the queries again."""
    length, memory_width = memory
    return Flops(0, 2 * batch * queries * memory_width * (2 * heads * length + width))


def transformer(tokens: int, width: int, layers: int, mlp_width: int) -> int:
    """The forward pass of one sample through full layers."""
    return layers * (2 * tokens * (4 * width**2 + 2 * width * mlp_width) + 4 * tokens**2 * width)
