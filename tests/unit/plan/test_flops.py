"""The plan's operations against those that torch counts in the real modules, forward and backward, to the last one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from seed_dist.config import Recipe, load_recipe
from seed_dist.models.memory_attention import is_cheaper
from seed_dist.plan import stage_flops
from seed_dist.plan.backbones import LanguageModel, tower
from seed_dist.plan.flops import Flops, add, is_memory_cheaper
from tests.features import TINY
from tests.unit.plan.real_steps import CausalQFormerStep, CodebookStep

from peft import LoraConfig, get_peft_model  # isort: skip  # after seed_dist.models, whose guard it needs
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM  # isort: skip

SMALL = tuple(option for option in TINY if not option.startswith(("codebook.head=", "codebook.generation")))
CASES = [
    ("seed_v2", ("qformer.dropout=0.1",)),
    ("seed_v2", ("codebook.head=mlp", "qformer.gather_with_gradient=true")),
    ("seed_v1", ("qformer.dropout=0.0",)),
    ("seed_v2", (*SMALL, "qformer.dropout=0.0", "qformer.queries=6", "qformer.exchanged_negatives=true")),
    ("glyphs", ()),
]


def counted(step: CausalQFormerStep | CodebookStep) -> Flops:
    """Attention is counted as its two products; fused kernels compute the same, and the scores once more backward.

    torch knows `baddbmm` but not the same in place, which `attend_memory` uses.
    """
    in_place: Any = {torch.ops.aten.baddbmm_: lambda out, a, b, **_: bmm_flop(a, b)}
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = step.loss()
        with FlopCounterMode(display=False, custom_mapping=in_place) as backward:
            loss.backward()
    return Flops(forward.get_total_flops(), backward.get_total_flops())


@pytest.mark.parametrize("patches", [16, 257])
@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_stage_1(name: str, overrides: tuple[str, ...], patches: int) -> None:
    recipe = load_recipe(name, overrides)
    planned = add(stage_flops.causal_qformer(recipe.qformer, patches, batch=3, ranks=4).values())
    assert counted(CausalQFormerStep(recipe, patches, 3, 4, "meta")) == planned


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_stage_2(name: str, overrides: tuple[str, ...]) -> None:
    recipe = load_recipe(name, overrides)
    planned = add(stage_flops.codebook(recipe.codebook, recipe.qformer, batch=3).values())
    assert counted(CodebookStep(recipe, 3, "meta")) == planned


@pytest.mark.parametrize("heads", [1, 7])
def test_the_choice_is_the_models(heads: int) -> None:
    cases = [(queries, length, 64 // heads) for queries in (1, 16, 32, 77) for length in (8, 16, 32, 257)]
    assert [is_memory_cheaper(*case) for case in cases] == [is_cheaper(*case) for case in cases]
    assert len({is_cheaper(*case) for case in cases}) == 2


def test_encoders_are_the_published_ones() -> None:
    """By hand, as open_clip's model_profile.csv counts CLIP ViT-H: 334.59 G for a picture; EVA's ViT-g 520.7 G."""
    recipe: Recipe = load_recipe("seed_v2")
    eva = stage_flops.tower(tower(recipe.backbones.image_encoder, "image_encoder"))
    clip = stage_flops.tower(tower(recipe.backbones.generation_encoder, "generation_encoder"))
    assert eva == 39 * (2 * 257 * (4 * 1408**2 + 2 * 1408 * 6144) + 4 * 257**2 * 1408) + 2 * 256 * 588 * 1408
    assert round(eva / 1e9, 1) == 520.7
    assert round(clip / 1e9, 1) == 334.6


def test_the_published_sizes_by_hand() -> None:
    """Per sample in 1e9: with projected keys the image pass takes 12.75 G (5.47 G in its layers, 7.28 G in 6 readings)
    and stage 2 3.92 G; captions take 5.47 G and the nearest codes 0.017 G."""
    recipe = load_recipe("seed_v2")
    q, c = recipe.qformer, recipe.codebook
    layers = 12 * (2 * 32 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 32**2 * 768)
    projected = 6 * (2 * 257 * 2 * 1408 * 768 + 4 * 32 * 768**2 + 4 * 32 * 257 * 768)
    assert round((layers + projected) / 1e9, 2) == 12.75
    folded = 6 * (4 * 32 * 1408 * (768 + 12 * 257) + 4 * 32 * 768**2)
    causal = stage_flops.query_encoder(1, stage_flops.image_queries(q, 257, training=False))
    assert causal.forward == layers + folded
    parts = stage_flops.causal_qformer(q, 257, batch=64, ranks=64)
    assert round(parts["text path"].forward / 64e9, 2) == 5.47
    quantizer = stage_flops.codebook(c, q, batch=1)
    # 2 readings by 1 query of 32 vectors, as the formula has it and as it would be with projected keys.
    readings = 2 * 4 * 768 * (768 + 12 * 32), 2 * (2 * 32 * 2 * 768**2 + 4 * 32 * 768)
    forward = add(quantizer.values()).forward
    assert round((forward - readings[0] + readings[1]) / 1e9, 2) == 3.92
    assert round(quantizer["nearest codes"].both / 1e9, 3) == 0.017


@pytest.mark.parametrize("kind", ["opt", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_stage_3(kind: str, checkpointing: bool) -> None:
    """The language model with its adapters, from embeddings to the layers' output and back."""
    recipe = load_recipe("seed_v1" if kind == "opt" else "seed_v2", [f"lora.gradient_checkpointing={checkpointing}"])
    sizes = LanguageModel(kind, 100, 64, 3, 160, 4, 64, 256, tied=kind == "opt")
    options, rows = recipe.lora, 2
    parts = stage_flops.lora(options, recipe.codebook, recipe.qformer, sizes, rows)
    model, embedded = _with_adapters(kind, sizes, options, rows)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum().backward()
    planned = parts["language model"].both + parts["adapters"].both
    # torch stops computing a layer again at the last tensor it needs, before the second half of the last adapter.
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.005 if checkpointing else 0)


def _with_adapters(kind: str, sizes: LanguageModel, options: Any, rows: int) -> tuple[Any, torch.Tensor]:
    common: dict[str, Any] = {
        "vocab_size": sizes.vocabulary, "hidden_size": sizes.width, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "max_position_embeddings": sizes.positions,
    }  # fmt: skip
    if kind == "opt":
        base: Any = OPTForCausalLM(OPTConfig(ffn_dim=sizes.mlp_width, word_embed_proj_dim=sizes.width, **common))
    else:
        base = LlamaForCausalLM(LlamaConfig(intermediate_size=sizes.mlp_width, **common))
    wrapped = get_peft_model(base, LoraConfig(r=options.rank, target_modules=list(options.target_modules)))
    if options.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    embedded = torch.zeros(rows, options.max_tokens, sizes.width, requires_grad=True)
    inner: Any = wrapped.get_base_model()
    return inner.base_model.train(), embedded
