"""Small random checkpoints in the published layouts, as the published programs would have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.models.interop import to_published
from seed_dist.models.model_files import exported_state
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

WIDTH, VOCABULARY = 128, 30  # two heads of 64, the published width of a head
QFORMER = QFormerConfig(
    queries=6,
    width=WIDTH,
    layers=5,
    heads=2,
    mlp_width=40,
    cross_every=2,
    vision_width=14,
    projection_width=10,
    max_text_tokens=12,
    text_positions=12,
    vocabulary_size=VOCABULARY,
)
CODEBOOK = {"size": 11, "width": 6, "decoder_layers": 2, "decoder_heads": 2, "head_layers": 3, "generation_width": 9}
VIT = {"visual_encoder.cls_token": torch.ones(1, 1, 14), "visual_encoder.blocks.0.attn.qkv.weight": torch.ones(3)}
POSITIONS = {"Qformer.bert.embeddings.position_ids": torch.arange(12)[None]}


def noisy(module: nn.Module, seed: int) -> nn.Module:
    """All weights random, so that no exchange of two of them stays unseen."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in exported_state(module).values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return module


def captioning_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head that BLIP-2's first stage writes captions with; its output matrix is the word embedding."""
    head, bias = "Qformer.cls.predictions", torch.randn(VOCABULARY)
    return {
        f"{head}.bias": bias,
        f"{head}.decoder.bias": bias,  # one parameter under two names
        f"{head}.transform.dense.weight": torch.randn(WIDTH, WIDTH),
        f"{head}.decoder.weight": weights["Qformer.bert.embeddings.word_embeddings.weight"],
    }


def stage1(seed: int = 1) -> dict[str, Tensor]:
    """A causal Q-Former with its text path, as stage 1 saves what it trained."""
    weights = to_published(exported_state(noisy(CausalQFormer(QFORMER), seed)))
    return {**weights, **captioning_head(weights)}


def blip2(seed: int = 2) -> dict[str, Tensor]:
    return {**stage1(seed), "itm_head.weight": torch.randn(2, WIDTH), "itm_head.bias": torch.randn(2)}


def tokenizer(head: str = "mlp", seed: int = 3) -> dict[str, Tensor]:
    """seed_quantizer.pt: the image path of the Q-Former and everything of stage 2."""
    quantizer = SeedQuantizer.for_qformer(CodebookConfig(head=head, **CODEBOOK), QFORMER)
    model = SeedTokenizer(CausalQFormer(QFORMER, text_path=False), quantizer, BackboneConfig())
    return to_published(exported_state(noisy(model, seed)))


def stage2(head: str = "reverse_qformer", seed: int = 3) -> dict[str, Tensor]:
    """What stage 2 saves: its own parts, without the frozen Q-Former."""
    frozen = ("Qformer.", "query_tokens", "ln_vision.")
    return {name: tensor for name, tensor in tokenizer(head, seed).items() if not name.startswith(frozen)}


def training(weights: dict[str, Tensor]) -> dict[str, Any]:
    """LAVIS's training checkpoint."""
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-4}]}
    return {"model": weights, "optimizer": optimizer, "config": {"run": {"max_epoch": 1}}, "scaler": None, "epoch": 0}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def tensors_of(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
