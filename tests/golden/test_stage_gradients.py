"""The stages as they are trained, against plain formulas: loss and gradients from stored features to every parameter.

`test_published_modules.py` compares the modules; here it is what the stages make of them: batches from files, the
options of the published recipes, the loss with its weights, and the head with several queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed_dist.config import StageName, load_recipe
from seed_dist.dist.comm import LocalComm
from seed_dist.models.captions import CaptionTokenizer
from seed_dist.models.interop import published_names, to_published
from seed_dist.models.model_files import exported_state
from seed_dist.train.data import open_data
from seed_dist.train.stages.base import Stage
from seed_dist.train.stages.build import build_stage
from tests.features import TINY, tiny_workspace, write_features
from tests.golden import naive

TOLERANCE = 2e-5
IDS = np.array([3, 17, 0, 8])
HEADS = 2
TEXT_ROWS = 3  # vectors per caption, 77 in Stable Diffusion
# A published recipe in everything but sizes, inputs and dropout.
SMALL = (
    *(option for option in TINY if not option.startswith(("codebook.head=", "codebook.revive"))),
    "backbones.text_tokenizer=embedded:clip", "qformer.dropout=0.0", "codebook.head_layers=3",
    "lora_training.accumulation=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    overrides = tiny_workspace(folder)
    for split, count in (("train", 40), ("val", 11)):
        captions = getattr(open_data(load_recipe("glyphs", overrides), "causal_qformer", folder), split).captions
        values = np.random.default_rng(1).standard_normal((count, TEXT_ROWS, 6))
        write_features(folder, split, "text_features", values.astype(np.float16), captions)
    return folder


def build(recipe_name: str, name: StageName, work: Path, *more: str) -> Stage:
    """In float64, with weights wide enough that every term of every gradient matters."""
    recipe = load_recipe(recipe_name, (*SMALL, *more))
    stage = build_stage(recipe, name, work, open_data(recipe, name, work), LocalComm()).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in stage.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3
            is_scale = key.endswith("weight") and ("norm" in key or "ln_" in key)
            parameter.copy_(noise + 1 if is_scale or key.endswith("temperature") else noise)
    return stage.train()


def doubled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def published_weights(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    state = {f"{prefix}{name}": tensor.detach().clone() for name, tensor in exported_state(module).items()}
    return {name: tensor.requires_grad_() for name, tensor in to_published(state).items()}


def assert_parity(loss: Tensor, naive_loss: Tensor, module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    """Loss, and gradient by published name, relative to the gradient's largest entry."""
    torch.testing.assert_close(loss.double(), naive_loss, rtol=TOLERANCE, atol=0)
    loss.backward()
    own = {f"{prefix}{name}": p for name, p in module.named_parameters()}
    found = to_published({name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.items()})
    naive.assert_gradients(found, naive_loss, weights, TOLERANCE)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_contrastive_stage(with_gradient: bool, work: Path) -> None:
    """Published: gathered without gradient, also where there is only one rank."""
    options = ("qformer.gather_with_gradient=true",) if with_gradient else ()
    stage: Any = build("seed_v2", "causal_qformer", work, *options)
    weights = published_weights(stage.qformer)
    batch = doubled(stage.make_batch(IDS, 0))
    loss, _ = stage(batch)

    captions = [stage.data.train.captions[i] for i in IDS]
    input_ids, mask = CaptionTokenizer("embedded:clip", 32)(captions)
    patches = torch.from_numpy(stage.data.train.read(IDS)["patches"]).double()
    causal = naive.causal_embeddings(weights, patches, HEADS)
    hidden = naive.text_hidden(weights, input_ids, mask, HEADS)
    naive_loss = naive.contrastive_loss(weights, causal, hidden, 0.1, with_gradient)
    assert_parity(loss, naive_loss, stage.qformer, weights, "")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("seed_v2", ("codebook.head=reverse_qformer",)),
        ("seed_v2", ("codebook.head=mlp",)),
        ("seed_v1", ("codebook.head=reverse_qformer", f"codebook.head_queries={TEXT_ROWS}")),
    ],
)
def test_codebook_stage(recipe: str, options: tuple[str, ...], work: Path) -> None:
    stage: Any = build(recipe, "codebook", work, *options)
    weights = published_weights(stage.model, "quantizer.")
    loss, _ = stage(doubled(stage.make_batch(IDS, 0)))

    stored = stage.data.train.read(IDS)
    causal = torch.from_numpy(stored["causal"]).double()
    target = torch.from_numpy(stored[stage.recipe.codebook.generation_target]).double()
    plain = naive.tokenizer(weights, causal, HEADS)
    assert plain["generation_embedding"].shape == target.shape
    assert len(plain["codes"].unique()) > 3
    generation = (plain["generation_embedding"] - target).square().mean()
    naive_loss = 5 * plain["codebook_loss"] + 2 * plain["reconstruction_loss"] + 0.5 * generation
    assert_parity(loss, naive_loss, stage.model, weights, "quantizer.")


def test_names_of_stage_2_are_the_published_ones(work: Path) -> None:
    """So that the comparison above leaves out nothing."""
    stage: Any = build("seed_v2", "codebook", work)
    names = [part for name, _ in stage.model.named_parameters() for part in published_names(f"quantizer.{name}")]
    assert sorted(names) == sorted(published_weights(stage.model, "quantizer."))
