"""Image and text towers of the published sizes' kinds: what is taken from them, against the towers run by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer
from seed_dist.models.vision import FrozenClip

import open_clip  # isort: skip  # after seed_dist.models, whose torchvision guard it needs

# EVA-CLIP ViT-g comes to open_clip from timm; this is the smallest of its family.
EVA = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224}
PLAIN = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 24, "head_width": 12}


def write_clip(folder: Path, vision: dict[str, Any], width: int, custom_text: bool) -> FrozenClip:
    text = {"context_length": 16, "vocab_size": len(build_tokenizer()), "width": 16, "heads": 2, "layers": 2}
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    model = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "x"}}
    config = {"model_cfg": model | {"custom_text": custom_text}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    return FrozenClip(str(folder))


def test_a_timm_tower_gives_its_last_but_one_block_and_its_embedding(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, EVA, 192, custom_text=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    patches, embedding = clip.patches_and_embedding(images)
    assert patches.shape == (2, 1 + 16 * 16, 192)

    trunk = clip._model.visual.trunk
    last, normalised = [], []
    trunk.blocks[-1].register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
    trunk.norm.register_forward_pre_hook(lambda module, inputs: normalised.append(inputs[0]))
    whole = clip.image_embedding(images)
    torch.testing.assert_close(patches, last[0])
    assert not torch.allclose(patches, normalised[0])
    torch.testing.assert_close(embedding, whole)


@pytest.mark.parametrize("texts", [["a red heart on black", "a blue star"]])
def test_text_features_are_the_hidden_states_that_the_embedding_is_read_from(texts: list[str], tmp_path: Path) -> None:
    """The final norm included: Stable Diffusion is conditioned on these."""
    clip = write_clip(tmp_path, PLAIN, 14, custom_text=False)
    features = clip.text_features(texts)
    assert features.shape == (2, 16, 16)
    ids = clip._tokenize(texts)
    ends = features[torch.arange(2), ids.argmax(dim=1)]
    torch.testing.assert_close(ends @ clip._model.text_projection, clip.text_embedding(texts))
