"""The plan's parameters against the real modules, module by module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seed_dist.config import load_recipe
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer
from seed_dist.plan import parameters
from seed_dist.plan.backbones import LanguageModel, language_model, tower


def by_module(module: nn.Module) -> dict[str, int]:
    own = {name: p.numel() for name, p in module.named_parameters(recurse=False)}
    return own | {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("seed_v1", []), ("seed_v2", []), ("seed_v2", ["codebook.head=mlp"]), ("glyphs", []),
     ("seed_v2", ["qformer.layers=5", "qformer.cross_every=3", "codebook.head_layers=3"])],
)  # fmt: skip
def test_the_trained_modules(name: str, overrides: list[str]) -> None:
    recipe = load_recipe(name, overrides)
    with torch.device("meta"):
        first = CausalQFormer(recipe.qformer)
        second = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    assert parameters.causal_qformer(recipe.qformer) == by_module(first)
    assert parameters.codebook(recipe.codebook, recipe.qformer) == by_module(second)


@pytest.mark.parametrize(
    ("name", "base", "adapters", "tokens"),
    [("seed_v1", 2_651_596_800, 23_592_960, 21_066_240), ("seed_v2", 6_738_415_616, 39_976_960, 67_125_248)],
)
def test_the_published_language_models(name: str, base: int, adapters: int, tokens: int) -> None:
    """As `published/test_parameters.py` counts them in transformers' and peft's modules."""
    recipe = load_recipe(name)
    sizes = language_model(recipe.backbones.language_model)
    assert parameters.language_base(sizes) == base
    assert parameters.lora(recipe.lora, recipe.codebook, sizes) == {"adapters": adapters, "image_tokens": tokens}


def test_the_embedded_models_are_read_from_their_folders() -> None:
    recipe = load_recipe("glyphs")
    sizes = language_model(recipe.backbones.language_model)
    assert sizes == LanguageModel("opt", 53, 160, 4, 640, 5, 160, 64, tied=True)
    from safetensors import safe_open

    from seed_dist.assets import resolve
    from seed_dist.models.vision import FrozenClip

    with safe_open(resolve(recipe.backbones.language_model) / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys() if key != "lm_head.weight")  # noqa: SIM118
    assert parameters.language_base(sizes) == stored
    clip = FrozenClip(recipe.backbones.image_encoder)
    patches, embedding = clip.patches_and_embedding(torch.zeros(1, 3, clip.image_size, clip.image_size))
    image = tower(recipe.backbones.image_encoder, "image_encoder")
    assert embedding is not None
    assert (image.tokens, image.width, image.embedding) == (*patches.shape[1:], embedding.shape[-1])
