"""Parameters of the published sizes, counted on the meta device against the specification's layer tables.

The tables below are sums of plain layers; the totals beside them are written out, so that a change of either is seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seed_dist.config import load_recipe
from seed_dist.models.language import _peft_config
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

from peft import get_peft_model  # isort: skip  # after seed_dist.models, whose guard these need
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM  # isort: skip

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
ROWS = 8192 + 2  # codes and the two marks


@pytest.mark.parametrize(
    ("recipe", "model", "config", "parameters", "adapters", "tables"),
    [
        ("seed_v1", OPTForCausalLM, OPTConfig(**OPT_2_7B), 2_651_596_800, 23_592_960, 1),  # one table: OPT ties
        ("seed_v2", LlamaForCausalLM, LlamaConfig(**VICUNA_7B), 6_738_415_616, 39_976_960, 2),
    ],
)
def test_language_model(recipe: str, model: Any, config: Any, parameters: int, adapters: int, tables: int) -> None:
    """Counts and bytes of the base that stays frozen, and of what stage 3 trains (published: 40.0 M in the adapters of
    the 7B model)."""
    lora = load_recipe(recipe).lora
    with torch.device("meta"):
        base = model(config).to(torch.float16)
        assert count(base) == parameters
        assert sum(p.numel() * p.element_size() for p in base.parameters()) == 2 * parameters
        adapted = get_peft_model(base, _peft_config(lora))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * len(lora.target_modules) * config.num_hidden_layers
    assert count(adapted, trainable=True) == adapters
    assert base.config.tie_word_embeddings is (tables == 1)
    rows = tables * ROWS * config.hidden_size
    assert rows == {"seed_v1": 20_976_640, "seed_v2": 67_125_248}[recipe]


def test_opt_2_7b_is_the_sum_of_its_layers() -> None:
    width, hidden = 2560, 10240
    layer = 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 2 * 2 * width
    positions = 2048 + 2  # OPT begins to count at 2
    assert 50272 * width + positions * width + 32 * layer + 2 * width == 2_651_596_800
    adapter = 16 * (4 * 2 * width + 2 * (width + hidden))
    assert 32 * adapter == 23_592_960
