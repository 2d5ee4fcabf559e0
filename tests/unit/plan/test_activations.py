"""The plan's activation bytes against what autograd really keeps of the real modules."""

from __future__ import annotations

import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.plan import activations
from tests.features import TINY
from tests.unit.plan.real_steps import CausalQFormerStep, CodebookStep

SMALL = tuple(option for option in TINY if not option.startswith(("codebook.head=", "codebook.generation")))
MIDDLE = ("qformer.width=192", "qformer.layers=4", "qformer.mlp_width=768", "qformer.vision_width=352",
          "qformer.heads=6", "codebook.decoder_heads=6", "codebook.size=256")  # fmt: skip
CASES = [
    ("seed_v2", (*MIDDLE, "qformer.dropout=0.0")),
    ("seed_v2", (*MIDDLE, "qformer.dropout=0.0", "codebook.head=mlp")),
    ("seed_v1", (*MIDDLE, "qformer.dropout=0.0")),
    ("glyphs", ()),
]
REAL = [("seed_v2", ("qformer.dropout=0.0",)), ("seed_v1", ("qformer.dropout=0.0",))]


def kept_bytes(step: CausalQFormerStep | CodebookStep) -> int:
    """Bytes of all tensors that the forward pass saves, each storage once, without parameters and buffers."""
    owned = {t.untyped_storage().data_ptr() for t in (*step.module.parameters(), *step.module.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.loss()
    assert loss.requires_grad
    return sum(kept.values())


def check(name: str, overrides: tuple[str, ...], stage: str, patches: int, batch: int) -> None:
    recipe = load_recipe(name, overrides)
    q, c = recipe.qformer, recipe.codebook
    if stage == "causal_qformer":
        planned = activations.causal_qformer(q, patches, batch, 2, element=4)
        measured = kept_bytes(CausalQFormerStep(recipe, patches, batch, 2, "cpu"))
    else:
        planned = activations.codebook(c, q, batch, element=4)
        measured = kept_bytes(CodebookStep(recipe, batch, "cpu"))
    assert sum(planned.values()) == pytest.approx(measured, rel=0.1), planned


@pytest.mark.parametrize("stage", ["causal_qformer", "codebook"])
@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_small(name: str, overrides: tuple[str, ...], stage: str) -> None:
    check(name, overrides, stage, 65, 8)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["causal_qformer", "codebook"])
@pytest.mark.parametrize(("name", "overrides"), REAL)
def test_published_size(name: str, overrides: tuple[str, ...], stage: str) -> None:
    check(name, overrides, stage, 257, 2)
