"""Parameters of the published sizes, counted on the meta device against the specification's layer tables.

The tables below are sums of plain layers; the totals beside them are written out, so that a change of either is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seed_dist.config import Recipe, load_recipe
from seed_dist.glyphs.vocabulary import save_tokenizer
from seed_dist.models.language import SeedLanguageModel
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

from transformers import (  # isort: skip  # after seed_dist.models, whose guard it needs
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

W, V = 768, 1408  # width of the Q-Former and of the image encoder
NORM = 2 * W


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


MLP = linear(W, 4 * W) + linear(4 * W, W)
SELF_ATTENTION = 4 * linear(W, W)


def cross_attention(memory: int) -> int:
    return 2 * linear(W, W) + 2 * linear(memory, W) + NORM  # query and output; key and value; norm


def query_path(layers: int, memory: int) -> int:
    """BERT layers with cross-attention in every second one, and the norm before them."""
    return NORM + layers * (SELF_ATTENTION + NORM + MLP + NORM) + layers // 2 * cross_attention(memory)


STAGE_1 = {
    "ln_vision": 2 * V,
    "query_tokens": 32 * W,
    "encoder": query_path(12, V) + 12 * (MLP + NORM),  # the second feed-forward part is the text's
    "word_embeddings": 30523 * W,
    "position_embeddings": 512 * W,
    "vision_proj": linear(W, 256),
    "text_proj": linear(W, 256),
    "temperature": 1,
}
DECODER = 32 * W + 4 * (2 * NORM + SELF_ATTENTION + MLP)
HEADS = {
    ("seed_v2", "reverse_qformer"): 1 * W + query_path(4, W) + linear(W, 1024),
    ("seed_v2", "mlp"): linear(W, 256, False) + linear(256, 128, False) + linear(128, 32, False) + linear(1024, 1024),
    ("seed_v1", "reverse_qformer"): 77 * W + query_path(4, W) + linear(W, W),
}
STAGE_2 = {
    "encode": linear(W, W) + linear(W, 32),
    "quantizer": 8192 * 32,
    "decode_mlp": linear(32, 32) + linear(32, W),
    "reconstruction": DECODER,
    "image": DECODER,
}


def count(module: nn.Module, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def by_module(module: nn.Module) -> dict[str, int]:
    own = {name: p.numel() for name, p in module.named_parameters(recurse=False)}
    return own | {name: count(child) for name, child in module.named_children()}


@pytest.mark.parametrize("name", ["seed_v1", "seed_v2"])
def test_stage_1(name: str) -> None:
    """185.7 M with the text path, 105.2 M of them on the image path; projections and temperature come on top."""
    layout = load_recipe(name).qformer
    with torch.device("meta"):
        whole, image_path = CausalQFormer(layout), CausalQFormer(layout, text_path=False)
    assert by_module(whole) == STAGE_1
    assert count(whole, trainable=True) == sum(STAGE_1.values()) == 186_081_281
    projections = STAGE_1["vision_proj"] + STAGE_1["text_proj"] + STAGE_1["temperature"]
    assert count(whole) - projections == 185_687_552
    assert count(image_path) == 105_165_056


@pytest.mark.parametrize(
    ("name", "head", "total"),
    [
        ("seed_v2", "reverse_qformer", 91_524_928),
        ("seed_v2", "mlp", 58_938_944),
        ("seed_v1", "reverse_qformer", 91_386_432),
    ],
)
def test_stage_2(name: str, head: str, total: int) -> None:
    """91.5 M, or 58.9 M with the head of the published checkpoint."""
    recipe = load_recipe(name, [f"codebook.head={head}"])
    with torch.device("meta"):
        model = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    assert by_module(model) == {**STAGE_2, "head": HEADS[name, head]}
    assert count(model, trainable=True) == total


OPT_2_7B = {
    "vocab_size": 50272, "hidden_size": 2560, "word_embed_proj_dim": 2560, "num_hidden_layers": 32, "ffn_dim": 10240,
    "num_attention_heads": 32, "max_position_embeddings": 2048,
}  # fmt: skip
VICUNA_7B = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "tie_word_embeddings": False,
}  # fmt: skip
CODES, CODE_WIDTH, RANKS = 8192, 32, 64
ROWS = CODES + 2  # codes and the two marks


def on_meta(folder: Path, model: Any, config: Any, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The language model of stage 3 over a base of that configuration, without a byte of weights."""
    config.save_pretrained(folder)
    save_tokenizer(folder)

    def without_weights(
        _: Path, dtype: torch.dtype, attn_implementation: str, output_loading_info: bool
    ) -> tuple[nn.Module, dict[str, list[str]]]:
        config._attn_implementation = attn_implementation
        return model(config).to(dtype), {"missing_keys": []}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", without_weights)
    with torch.device("meta"):
        codebook = torch.empty(CODES, CODE_WIDTH)
        return SeedLanguageModel(str(folder), recipe.codebook.size, recipe.lora, codebook, dtype=torch.float16)


@pytest.mark.parametrize(
    ("recipe_name", "model", "config", "parameters", "adapters", "tokens"),
    [
        # SEED-OPT: one linear layer, the marks, and rows that predict.
        (
            "seed_v1", OPTForCausalLM, OPTConfig(**OPT_2_7B), 2_651_596_800, 23_592_960,
            linear(CODE_WIDTH, 2560) + (2 + ROWS) * 2560,
        ),
        # LLaMA: a row that is read and a row that predicts for each.
        ("seed_v2", LlamaForCausalLM, LlamaConfig(**VICUNA_7B), 6_738_415_616, 39_976_960, 2 * ROWS * 4096),
    ],
)  # fmt: skip
def test_language_model(
    recipe_name: str, model: Any, config: Any, parameters: int, adapters: int, tokens: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Counts and bytes of the base that stays frozen, and of what stage 3 trains (published: 40.0 M in the adapters of
    the 7B model)."""
    recipe = load_recipe(recipe_name)
    whole = on_meta(tmp_path, model, config, recipe, monkeypatch)
    trained = {name: p for name, p in whole.named_parameters() if p.requires_grad}
    frozen = [p for p in whole.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) == parameters
    lora = [p for name, p in trained.items() if "lora_" in name]
    assert len(lora) == 2 * len(recipe.lora.target_modules) * config.num_hidden_layers
    assert sum(p.numel() for p in lora) == adapters
    assert count(whole.image_tokens, trainable=True) == tokens
    assert count(whole, trainable=True) == adapters + tokens
    # Bytes on a GPU before activations: the base in half precision; what is trained in half precision with its
    # gradients; and one part in 64 of its fp32 masters and two moments (ZeRO-2).
    assert sum(p.numel() * p.element_size() for p in frozen) == 2 * parameters
    assert all(p.dtype == torch.float32 for p in trained.values())
    states = 2 * parameters + (2 + 2) * (adapters + tokens) + 3 * 4 * (adapters + tokens) // RANKS
    assert states == {"seed_v1": 5_490_204_000, "seed_v2": 13_925_321_728}[recipe_name]


def test_opt_2_7b_is_the_sum_of_its_layers() -> None:
    width, hidden = 2560, 10240
    layer = 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 2 * 2 * width
    positions = 2048 + 2  # OPT begins to count at 2
    assert 50272 * width + positions * width + 32 * layer + 2 * width == 2_651_596_800
    adapter = 16 * (4 * 2 * width + 2 * (width + hidden))
    assert 32 * adapter == 23_592_960
