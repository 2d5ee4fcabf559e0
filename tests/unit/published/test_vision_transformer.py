"""The ViT of BLIP-2 at its published size with random weights: its parameters, one picture through it into stage 1.

Half precision: 39 blocks take 4 GB in fp32. Time is of one thread.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from seed_dist.config import load_recipe
from seed_dist.models.eva_vision import MODEL_TYPE, EvaVision
from seed_dist.models.qformer import CausalQFormer
from tests.memory import taking_at_most

from transformers import Blip2VisionConfig, Blip2VisionModel  # isort: skip  # after seed_dist.models

GIB = 2**30
WIDTH, HIDDEN, BLOCKS, PATCH, TOKENS = 1408, 6144, 39, 14, 1 + 16 * 16


def expected_parameters() -> int:
    """Sum of the specification's layers: patches, class token, positions, blocks; no norm behind them.

    With a bias of keys in each block, zero: LAVIS has none, so its own count is 39 x 1408 less.
    """
    linear = {"qkv": 3 * WIDTH * (WIDTH + 1), "projection": WIDTH * (WIDTH + 1)}
    mlp = HIDDEN * (WIDTH + 1) + WIDTH * (HIDDEN + 1)
    return (3 * PATCH**2 + 1) * WIDTH + (1 + TOKENS) * WIDTH + BLOCKS * (sum(linear.values()) + mlp + 2 * 2 * WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random checkpoint in bf16, removed at once: 2 GB."""
    path = tmp_path_factory.mktemp("vit")
    with torch.device("meta"):
        model = Blip2VisionModel(Blip2VisionConfig())
    state: dict[str, Any] = {}
    pool = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02
    for name, tensor in model.state_dict().items():
        repeats = -(-tensor.numel() // len(pool))
        values = pool.repeat(repeats)[: tensor.numel()].reshape(tensor.shape)
        state[name] = values + ("norm" in name and name.endswith("weight"))
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPE}))  # the sizes are its defaults
    yield path
    shutil.rmtree(path)


@pytest.mark.slow
def test_one_picture_goes_through_it_and_into_stage_1(folder: Path) -> None:
    with taking_at_most(6 * GIB):
        send_one_picture(folder)


def send_one_picture(folder: Path) -> None:
    encoder = EvaVision(folder, torch.device("cpu"), torch.bfloat16)
    parameters = list(encoder._model.parameters())
    assert sum(p.numel() for p in parameters) == expected_parameters() == 985_949_440
    assert sum(p.numel() * p.element_size() for p in parameters) < 2.01e9
    assert (encoder._model.config.num_attention_heads, encoder.processor.size_px) == (16, 224)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8))
    qformer = CausalQFormer(load_recipe("seed_v2").qformer, text_path=False).eval()
    with torch.inference_mode():
        patches, embedding = encoder.patches_and_embedding(encoder.processor.preprocess(picture).unsqueeze(0))
        causal = qformer.embed_image(patches)
    assert embedding is None
    assert patches.shape == (1, TOKENS, WIDTH)
    assert causal.shape == (1, 32, 768)
    assert torch.isfinite(patches).all()
    assert torch.isfinite(causal).all()
    assert patches[0].std(dim=0).mean() > 1e-3, "tokens differ"
