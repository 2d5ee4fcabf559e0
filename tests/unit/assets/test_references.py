"""Kinds of references, what a missing one says, and which files of a repository are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed_dist.assets import resolve
from seed_dist.assets.location import assets_folder
from seed_dist.assets.selection import wanted_files
from seed_dist.errors import ConfigError


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", "A" * 40, ""])
def test_only_a_whole_commit_hash_is_taken(revision: str) -> None:
    with pytest.raises(ConfigError, match=r"full commit hash.*may be moved to other weights"):
        resolve(f"hub:lab/model@{revision}")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("image_encoder", "stages 1 and 2 train from cached features without it"),
        ("painter", r"needed to paint \(--paint"),
        ("language_model", "stages 1 and 2 train without it"),
    ],
)
def test_what_works_without_it_is_said(option: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_DIST_ASSETS", str(tmp_path))
    for reference in (f"hub:lab/model@{'a' * 40}", str(tmp_path / "none")):
        with pytest.raises(ConfigError, match=text):
            resolve(reference, option)
    with pytest.raises(ConfigError, match=f"looked for {tmp_path}/lab--model/{'a' * 40}"):
        resolve(f"hub:lab/model@{'a' * 40}")


def test_assets_lie_in_the_cache_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_DIST_CACHE", str(tmp_path))
    monkeypatch.delenv("SEED_DIST_ASSETS", raising=False)
    assert assets_folder() == tmp_path / "assets"
    monkeypatch.setenv("SEED_DIST_ASSETS", "elsewhere")
    assert assets_folder() == Path("elsewhere")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (  # both kinds of CLIP in one repository: open_clip's, because its configuration is there
            ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "config.json",
             "model.safetensors", "pytorch_model.bin", "merges.txt"],
            ["config.json", "merges.txt", "open_clip_config.json", "open_clip_model.safetensors"],
        ),
        (  # shards with their index
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
             "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "tokenizer.model"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
             "tokenizer.model"],
        ),
        (  # nothing but pickles
            ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "vocab.json"],
            ["pytorch_model.bin", "vocab.json"],
        ),
        (  # a pipeline: its components, no checkpoint beside them, no judge of pictures
            ["model_index.json", "sd-v1-4.ckpt", "v1.safetensors", "model.safetensors", "unet/config.json",
             "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
             "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/model.safetensors",
             "tokenizer/merges.txt", "safety_checker/model.safetensors", ".git/x.json"],
            ["model_index.json", "text_encoder/model.safetensors", "tokenizer/merges.txt", "unet/config.json",
             "unet/diffusion_pytorch_model.safetensors"],
        ),
    ],
)  # fmt: skip
def test_one_set_of_weights(names: list[str], wanted: list[str]) -> None:
    assert wanted_files(names) == wanted
