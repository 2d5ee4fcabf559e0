"""Image and text towers of the published sizes' kinds: what is taken from them, against the towers run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.models.open_clip_folder import PLAIN, write_clip

# EVA-CLIP ViT-g comes to open_clip from timm; this is the smallest of its family.
EVA = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224}


def test_a_timm_tower_gives_its_last_but_one_block_and_its_embedding(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, EVA, 192, custom_text=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    patches, embedding = clip.patches_and_embedding(images)
    assert patches.shape == (2, 1 + 16 * 16, 192)

    trunk = clip._model._model.visual.trunk
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
    ids = clip._model._tokenize(texts)
    ends = features[torch.arange(2), ids.argmax(dim=1)]
    torch.testing.assert_close(ends @ clip._model._model.text_projection, clip.text_embedding(texts))
