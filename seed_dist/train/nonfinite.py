"""Where numbers stop being finite: the module that makes them, or the parameter whose gradient is too large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seed_dist.dist.engine import Engine


def find_nonfinite(engine: Engine, micro_batches: list[dict[str, Tensor]]) -> str | None:
    """What is not finite first, on whichever rank, in words; None when all is finite.

    Runs the step's micro-batches again, so all ranks must call it; nothing is accumulated.
    """
    found = [_look(engine, engine.to_device(batch)) for batch in micro_batches]  # all: a forward pass has collectives
    by_rank = engine.comm.gather_objects(next(filter(None, found), None))
    return next((f"{text} on rank {rank}" for rank, text in enumerate(by_rank) if text), None)


def _look(engine: Engine, batch: dict[str, Tensor]) -> str | None:
    named = {name: value for name, value in engine.module.named_parameters() if value.requires_grad}
    outputs: list[str] = []
    with _watched(engine.module, outputs):
        loss, _ = engine.module(batch)
    # Gradients by value: the hooks with which the engine collects them belong to `backward`.
    gradients = torch.autograd.grad(loss * engine.loss_scale, list(named.values()), allow_unused=True)
    if outputs:
        return f"the output of {outputs[0]}"
    bad = (name for name, value in zip(named, gradients, strict=True) if value is not None and not _is_finite(value))
    name = next(bad, None)
    return f"the gradient of {name} at loss scale {engine.loss_scale:g}" if name else None


@contextmanager
def _watched(module: nn.Module, found: list[str]) -> Iterator[None]:
    """Collects the names of modules whose output is not finite, in the order in which they end: inner ones first."""

    def hook_of(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if any(not _is_finite(value) for value in _tensors(output)):
                found.append(name or type(module).__name__)

        return hook

    handles = [part.register_forward_hook(hook_of(name)) for name, part in module.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating tensors in whatever a module returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        yield from _tensors(list(vars(value).values()))


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
