"""The plan's activation bytes against what autograd really keeps of the real modules."""

from __future__ import annotations

import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.plan import activations
from tests.unit.plan.real_steps import CausalQFormerStep, CodebookStep

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


def check(name: str, overrides: tuple[str, ...], stage: str, patches: int, batch: int, dtype: torch.dtype) -> None:
    recipe = load_recipe(name, overrides)
    q, c = recipe.qformer, recipe.codebook
    if stage == "causal_qformer":
        step: CausalQFormerStep | CodebookStep = CausalQFormerStep(recipe, patches, batch, 2, "cpu")
        planned = activations.causal_qformer(q, patches, batch, 2, dtype.itemsize)
    else:
        step = CodebookStep(recipe, batch, "cpu")
        step.causal, step.target = step.causal.to(dtype), step.target.to(dtype)  # as Engine.to_device
        planned = activations.codebook(c, q, batch, dtype.itemsize)
    step.module.to(dtype)
    assert sum(planned.values()) == pytest.approx(kept_bytes(step), rel=0.1), planned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("patches", [16, 65])  # with projected keys and without in the recipe glyphs
@pytest.mark.parametrize("stage", ["causal_qformer", "codebook"])
@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_small(name: str, overrides: tuple[str, ...], stage: str, patches: int, dtype: torch.dtype) -> None:
    check(name, overrides, stage, patches, 8, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stage", ["causal_qformer", "codebook"])
@pytest.mark.parametrize(("name", "overrides"), REAL)
def test_published_size(name: str, overrides: tuple[str, ...], stage: str, dtype: torch.dtype) -> None:
    check(name, overrides, stage, 257, 2, dtype)
