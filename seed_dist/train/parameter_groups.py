"""Which parameters are decayed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

# The published optimizer leaves out tensors with fewer than two dimensions and these names.
_NAMES_WITHOUT_DECAY = ("bias", "norm", "ln", "bn")


def parameter_groups(
    module: nn.Module, weight_decay: float, without_decay: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: decayed, and not decayed.

    Biases, norms and everything below two dimensions are not decayed, nor are the parameters named in `without_decay`.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and name not in without_decay and not _named_without_decay(name)
            groups[decayed].append(parameter)
    assert groups[True] or groups[False], "the module has no trainable parameter"
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
        for decayed, parameters in groups.items()
        if parameters
    ]


def _named_without_decay(name: str) -> bool:
    """By the words of a dotted name: `ln_vision.weight` is a norm, `final_linear.weight` is none."""
    words = name.replace(".", "_").lower().split("_")
    return any(word.rstrip("0123456789") in _NAMES_WITHOUT_DECAY or "norm" in word for word in words)
