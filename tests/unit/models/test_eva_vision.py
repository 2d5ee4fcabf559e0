"""The ViT of BLIP-2 in both layouts, small and random: equal to each other and to LAVIS's formulas written out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from seed_dist.convert.sizes import Told
from seed_dist.convert.to_ours import ToOurs, convert_to_ours
from seed_dist.convert.vision_transformer import BLOCKS
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.models.eva_vision import EvaVision
from seed_dist.models.vision import FrozenClip

from transformers import Blip2Config, Blip2ForImageTextRetrieval  # isort: skip  # after seed_dist.models

WIDTH, HIDDEN, HEADS, SIZE, PATCH = 24, 40, 4, 28, 14
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def lavis_weights(blocks: int) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of LAVIS's eva_vit.py; scales that make every detail matter."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + (SIZE // PATCH) ** 2, WIDTH),
              "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
              "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "head.weight": (5, WIDTH), "head.bias": (5,)}  # fmt: skip
    for i in range(blocks):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "mlp.fc1.weight": (HIDDEN, WIDTH),
            "mlp.fc1.bias": (HIDDEN,), "mlp.fc2.weight": (WIDTH, HIDDEN), "mlp.fc2.bias": (WIDTH,),
        }.items()}  # fmt: skip
    # Channels nearly constant over a token: a wrong epsilon of the norms shows.
    return {name: draw(*shape) * (1e-3 if name in ("cls_token", "pos_embed") else 1) for name, shape in shapes.items()}


def by_hand(weights: Mapping[str, Tensor], images: Tensor, blocks: int) -> Tensor:
    """LAVIS's forward pass, written out."""
    w = {name: tensor.float() for name, tensor in weights.items()}
    patches = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([w["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    for i in range(blocks):
        b = {name.removeprefix(f"blocks.{i}."): t for name, t in w.items() if name.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, (WIDTH,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (y @ b["attn.qkv.weight"].T).chunk(3, -1)
        )
        q = q + b["attn.q_bias"].view(HEADS, 1, -1)
        v = v + b["attn.v_bias"].view(HEADS, 1, -1)
        a = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        x = x + a.transpose(1, 2).flatten(2) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        y = F.layer_norm(x, (WIDTH,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    return x


def converted(weights: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save(dict(weights), folder / "eva_vit_g.pth")
    convert_to_ours(ToOurs(folder / "eva_vit_g.pth", folder / "vit", Told(HEADS, None, None)))
    return folder / "vit"


def whole_blip2(vision: Mapping[str, Tensor], blocks: int, folder: Path) -> Path:
    """A BLIP-2 as transformers itself saves it, in several shards, with these vision weights and an old epsilon."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": blocks, "image_size": SIZE,
             "num_attention_heads": HEADS, "patch_size": PATCH, "layer_norm_eps": 1e-5}  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "encoder_hidden_size": WIDTH, "vocab_size": 20}  # fmt: skip
    opt = {"model_type": "opt", "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 16,
           "num_attention_heads": 2, "word_embed_proj_dim": 16}  # fmt: skip
    model = Blip2ForImageTextRetrieval(Blip2Config(vision_config=sizes, qformer_config=text, text_config=opt))
    rest = model.vision_model.load_state_dict(dict(vision), strict=False)
    assert rest.unexpected_keys == []
    assert rest.missing_keys == ["post_layernorm.weight", "post_layernorm.bias"]
    torch.nn.init.normal_(model.vision_model.post_layernorm.weight)
    model.save_pretrained(folder / "blip2", max_shard_size="20KB")
    assert (folder / "blip2" / "model.safetensors.index.json").is_file()
    preprocessor = {
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "image_mean": [0.4] * 3,
        "image_std": [0.2] * 3,
    }
    (folder / "blip2" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder / "blip2"


def test_both_layouts_give_what_lavis_computes(tmp_path: Path) -> None:
    weights = lavis_weights(3)
    expected = by_hand(weights, IMAGES, 3)
    ours = FrozenClip(str(converted(weights, tmp_path)))
    theirs = FrozenClip(str(whole_blip2(load_file(tmp_path / "vit" / "model.safetensors"), 3, tmp_path)))
    for encoder in (ours, theirs):
        torch.testing.assert_close(encoder.patch_features(IMAGES), expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(ours.patch_features(IMAGES), theirs.patch_features(IMAGES), atol=2e-5, rtol=2e-5)
    assert ours.details()["preprocessing"]["interpolation"] == "bicubic"
    assert theirs.details()["preprocessing"] == {
        "geometry": "squash", "size_px": SIZE, "interpolation": "bilinear", "mean": [0.4] * 3, "std": [0.2] * 3
    }  # fmt: skip


def test_of_forty_blocks_the_last_is_left_out(tmp_path: Path) -> None:
    weights = lavis_weights(40)
    features = FrozenClip(str(converted(weights, tmp_path))).patch_features(IMAGES)
    assert BLOCKS == 39
    torch.testing.assert_close(features, by_hand(weights, IMAGES, 39), atol=1e-3, rtol=1e-4)
    assert not torch.allclose(features, by_hand(weights, IMAGES, 40), atol=1e-2)


def test_half_precision_is_kept_and_runs_in_either(tmp_path: Path) -> None:
    """Stored as LAVIS stores it, linear and convolution weights in fp16. A GPU computes so; here bf16 stands for it."""
    half = {name: t.half() if t.ndim > 1 and "embed" not in name and name != "cls_token" else t
            for name, t in lavis_weights(2).items()}  # fmt: skip
    folder = converted(half, tmp_path)
    assert load_file(folder / "model.safetensors")["encoder.layers.0.mlp.fc1.weight"].dtype == torch.float16
    exact = by_hand(half, IMAGES, 2)
    with torch.inference_mode():
        full = EvaVision(folder, torch.device("cpu")).patches_and_embedding(IMAGES)[0]
        low = EvaVision(folder, torch.device("cpu"), torch.bfloat16).patches_and_embedding(IMAGES)[0]
    torch.testing.assert_close(full, exact, atol=2e-5, rtol=2e-5)
    assert low.dtype == torch.float32
    assert 1e-4 < (low - exact).norm() / exact.norm() < 2e-2


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    weights = lavis_weights(2)
    bad = {**weights, "blocks.0.gamma_1": weights["norm.bias"]}
    del bad["blocks.1.attn.v_bias"]
    with pytest.raises(MismatchError, match=r"1 missing: blocks\.1\.attn\.v_bias; 1 unknown: blocks\.0\.gamma_1"):
        converted(bad, tmp_path)
    assert not (tmp_path / "vit").exists()
    folder = converted(weights, tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["embeddings.class_embedding"]
    state["encoder.layers.0.mlp.fc1.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(MismatchError, match=r"1 missing: embeddings\.class_embedding; .*fc1\.bias is \(3,\) instead"):
        FrozenClip(str(folder))


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    encoder = FrozenClip(str(converted(lavis_weights(2), tmp_path)))
    with pytest.raises(ConfigError, match="is a vision model of BLIP-2 and has no image embedding"):
        encoder.image_embedding(IMAGES)
    with pytest.raises(ConfigError, match="has no features of texts"):
        encoder.text_features(["a"])
