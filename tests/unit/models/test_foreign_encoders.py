"""Encoders in the layouts that published pipelines ship, small and random, against others who read such a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from seed_dist.errors import ConfigError, DataError
from seed_dist.models.vision import FrozenClip
from tests.unit.models.open_clip_folder import PLAIN, write_clip

from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # isort: skip
from transformers import (  # isort: skip  # after seed_dist.models, whose torchvision guard these need
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

EMBEDDING = 14
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
CAPTIONS = ["a red heart", "star", "a red heart left of a blue star and more words than fit into it by far"]


def image_encoder(clip: FrozenClip, folder: Path) -> Path:
    """The image tower of an open_clip model under transformers' names."""
    tower: dict[str, Tensor] = clip._model._model.visual.state_dict()
    names = {"class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight",
             "positional_embedding": "embeddings.position_embedding.weight"}  # fmt: skip
    names |= {f"{a}.{kind}": f"{b}.{kind}" for a, b in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"))
              for kind in ("weight", "bias")}  # fmt: skip
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
             "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    state = {f"vision_model.{new}": tower[old] for old, new in names.items()}
    for i in range(PLAIN["layers"]):
        old, new = f"transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            state |= {f"{new}.{theirs}.{kind}": tower[f"{old}.{ours}.{kind}"] for ours, theirs in parts.items()}
            qkv = tower[f"{old}.attn.in_proj_{kind}"].chunk(3)
            state |= {f"{new}.self_attn.{p}_proj.{kind}": t for p, t in zip("qkv", qkv, strict=True)}
    state["visual_projection.weight"] = tower["proj"].T.contiguous()
    width = PLAIN["width"]
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=PLAIN["layers"], hidden_act="gelu",
        num_attention_heads=width // PLAIN["head_width"], image_size=PLAIN["image_size"],
        patch_size=PLAIN["patch_size"], projection_dim=EMBEDDING,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config)
    model.load_state_dict(state)
    model.save_pretrained(folder / "image_encoder")
    preprocessor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
                    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}  # fmt: skip
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableUnCLIPImg2ImgPipeline"}))
    return folder


def test_open_clip_and_an_unclip_pipeline_give_the_same_of_a_picture(tmp_path: Path) -> None:
    """The image encoder of Stable unCLIP is open_clip's ViT-H in transformers' layout."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    clip = write_clip(tmp_path / "a", PLAIN, EMBEDDING, custom_text=False)
    folder = image_encoder(clip, tmp_path / "b")
    for reference in (folder, folder / "image_encoder"):
        other = FrozenClip(str(reference))
        pixels = clip.preprocess(PICTURE).unsqueeze(0)
        if reference == folder:
            torch.testing.assert_close(other.preprocess(PICTURE).unsqueeze(0), pixels)
            assert other.details()["preprocessing"] == clip.details()["preprocessing"]
        torch.testing.assert_close(other.image_embedding(pixels), clip.image_embedding(pixels), atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(other.patch_features(pixels), clip.patch_features(pixels), atol=2e-5, rtol=2e-5)
    assert clip.joins_both
    assert not other.joins_both
    with pytest.raises(ConfigError, match="has no joint space of both"):
        other.text_embedding(["a"])


def pipeline(folder: Path) -> StableDiffusionPipeline:
    """Stable Diffusion 1 in all its parts, tiny; its tokenizer pads with the end token, as the published one does."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    marks = ["<|startoftext|>", "<|endoftext|>"]
    words = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters), *marks])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16, pad_token=marks[1]
    )
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=words[marks[0]], eos_token_id=words[marks[1]], initializer_factor=9.0,
    )  # fmt: skip
    blocks = {"block_out_channels": (8,), "norm_num_groups": 4}
    unet = UNet2DConditionModel(
        sample_size=4, layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        cross_attention_dim=16, **blocks,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**blocks), text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def test_text_features_are_those_that_stable_diffusion_is_conditioned_on(tmp_path: Path) -> None:
    theirs = pipeline(tmp_path / "words")
    theirs.save_pretrained(tmp_path / "sd")
    encoder = FrozenClip(str(tmp_path / "sd"))
    features = encoder.text_features(CAPTIONS)
    expected, null = theirs.encode_prompt(CAPTIONS, torch.device("cpu"), 1, True)
    assert features.shape == (3, 16, 16)
    assert torch.equal(features, expected)
    assert torch.equal(encoder.text_features([""]), null[:1])

    padded_with_zero = theirs.tokenizer(CAPTIONS[1], return_tensors="pt").input_ids
    padded_with_zero = torch.nn.functional.pad(padded_with_zero, (0, 16 - padded_with_zero.shape[1]))
    other = theirs.text_encoder(padded_with_zero).last_hidden_state
    assert not torch.allclose(features[1], other[0], atol=1e-2), "how it is padded must matter in this test"
    with pytest.raises(ConfigError, match="is a text encoder of Stable Diffusion and has no features of pictures"):
        encoder.preprocess(PICTURE)


def test_a_folder_that_says_nothing_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(DataError, match=r"model_type 'bert', architectures \['BertModel'\].*Needed are model_type"):
        FrozenClip(str(tmp_path))


def test_a_preprocessor_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folder = image_encoder(write_clip(tmp_path / "a", PLAIN, EMBEDDING, custom_text=False), tmp_path / "b")
    path = folder / "feature_extractor" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "crop_size": 224}))
    with pytest.raises(DataError, match="asks for 224 px and bicubic, but the model takes 32 px"):
        FrozenClip(str(folder))


def test_a_clip_of_transformers_has_both_towers(tmp_path):
    """Laid out as openai/clip-vit-large-patch14; what it says is what transformers' own model says of each pair."""
    tower = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3}
    text = {**tower, "vocab_size": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, "max_position_embeddings": 6},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=EMBEDDING,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer(vocab=words, merges=[], model_max_length=77)
    tokenizer.save_pretrained(tmp_path)
    clip = FrozenClip(str(tmp_path))
    assert clip.joins_both
    pixels = torch.stack([clip.preprocess(PICTURE), clip.preprocess(PICTURE.rotate(90))])
    pictures = clip.image_embedding(pixels)
    for caption in ("a", "b a", "a b a a b b a a b"):
        tokens = tokenizer([caption], max_length=6, truncation=True, return_tensors="pt")
        with torch.no_grad():
            theirs = model(pixel_values=pixels, **tokens)
        (ours,) = clip.text_embedding(["b", caption])[1:]  # beside a shorter one
        unit, own = torch.nn.functional.normalize(pictures, dim=1), torch.nn.functional.normalize(ours, dim=0)
        assert torch.allclose(clip.logit_scale() * unit @ own, theirs.logits_per_image[:, 0], atol=1e-5)
    assert torch.equal(clip.patches_and_embedding(pixels)[1], pictures)
    assert clip.patch_features(pixels).shape == (2, 17, 12)
