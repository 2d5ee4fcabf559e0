"""The five kinds of features with real models: equal to calling the model oneself, strict about weights."""

import json
import shutil

import numpy as np
import pytest
import torch

from seed_dist.assets import resolve, weights_sha256
from seed_dist.config import load_recipe
from seed_dist.data.reader import FeatureShards, ImageShards, PairedFeatures
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.encode.targets import TARGETS, EncoderMaker
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer
from seed_dist.models.vision import FrozenClip
from tests.pictures import fill

SAMPLES = 9
SMALL = ("qformer.queries=5", "qformer.width=16", "qformer.heads=2", "qformer.layers=2", "qformer.mlp_width=32",
         "codebook.size=20", "codebook.width=4", "codebook.decoder_layers=1", "codebook.decoder_heads=2")  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return FrozenClip("embedded:clip")


def small_recipe(clip, *overrides):
    blank = torch.zeros(1, 3, clip.image_size, clip.image_size)
    width = clip.patch_features(blank).shape[2]
    return load_recipe("glyphs", [*SMALL, f"qformer.vision_width={width}", *overrides])


def export_stages(recipe, work, seed=0):
    """Exports of untrained stages, in the places where training leaves them."""
    torch.manual_seed(seed)
    qformer = CausalQFormer(recipe.qformer)
    torch.nn.init.normal_(qformer.query_tokens)  # far apart, so that the queries get unlike codes
    qformer.save_pretrained(work / "causal_qformer" / "export", recipe.backbones, {})
    quantizer = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    torch.nn.init.normal_(quantizer.encode[-1].weight)
    torch.nn.init.normal_(quantizer.quantizer.embedding.weight)
    SeedTokenizer(qformer, quantizer, recipe.backbones).save_pretrained(work / "codebook" / "export")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, clip):
    """(recipe, work) with all five targets of the split `val`."""
    folder = tmp_path_factory.mktemp("encode")
    recipe, work = small_recipe(clip), folder / "work"
    shard_source(fill(folder / "source", SAMPLES), work / "images" / "val", ShardOptions(4, 0.0, 1))
    export_stages(recipe, work)
    made = list(encode_workspace(EncodeRequest(recipe, work, TARGETS, ["val"], batch_size=3)))
    assert [path.parent.name for path, _ in made] == list(TARGETS)
    return recipe, work


def everything(work, target):
    return torch.from_numpy(FeatureShards(work / "features" / target / "val").read(np.arange(SAMPLES)))


def test_features_from_images_are_what_the_model_gives(workspace, clip):
    _, work = workspace
    images = ImageShards(work / "images" / "val")
    pixels = torch.stack([clip.preprocess(images.image(i)) for i in range(SAMPLES)])
    patches, embedding = everything(work, "patches"), everything(work, "image_embedding")
    assert patches.dtype == torch.float16
    assert embedding.dtype == torch.float32
    assert torch.allclose(patches.float(), clip.patch_features(pixels), rtol=2e-3, atol=2e-3)
    assert torch.allclose(embedding, clip.image_embedding(pixels), rtol=1e-4, atol=1e-4)
    assert embedding.std(dim=0).mean() > 1e-3  # the images differ, and so do their embeddings


def test_text_features_are_of_the_captions(workspace, clip):
    _, work = workspace
    captions = ImageShards(work / "images" / "val").captions
    features = everything(work, "text_features")
    assert features.dtype == torch.float16
    assert torch.allclose(features.float(), clip.text_features(captions), rtol=2e-3, atol=2e-3)


def test_causal_embeddings_and_codes_follow_from_the_exports(workspace):
    recipe, work = workspace
    qformer = CausalQFormer.from_pretrained(work / "causal_qformer" / "export")
    causal = everything(work, "causal")
    assert causal.dtype == torch.float16
    assert causal.shape == (SAMPLES, recipe.qformer.queries, recipe.qformer.width)
    assert torch.allclose(causal.float(), qformer.embed_image(everything(work, "patches")), rtol=2e-3, atol=2e-3)
    codes = everything(work, "codes")
    assert codes.dtype == torch.int32
    tokenizer = SeedTokenizer.from_pretrained(work / "codebook" / "export")
    assert (codes == tokenizer.quantizer.codes(causal)).all()
    assert len(codes.unique()) > 3


def test_all_targets_belong_together(workspace):
    _, work = workspace
    paired = PairedFeatures(work, "val", TARGETS)
    assert paired.keys == ImageShards(work / "images" / "val").keys
    assert set(paired.read(np.array([8, 0]))) == set(TARGETS)


def test_manifests_name_the_weights(workspace):
    _, work = workspace
    details = {t: FeatureShards(work / "features" / t / "val").manifest.details for t in TARGETS}
    expected = weights_sha256(resolve("embedded:clip"))
    for target in ("patches", "image_embedding", "text_features"):
        assert (details[target]["encoder"], details[target]["weights_sha256"]) == ("embedded:clip", expected)
    assert details["patches"]["preprocessing"]["size_px"] == 64
    assert "EXIF" in details["patches"]["preprocessing"]["decoding"]
    assert len({details[target]["weights_sha256"] for target in TARGETS}) == 3


def test_one_target_alone_gives_the_same_bytes_as_several_together(workspace, tmp_path):
    recipe, work = workspace
    (tmp_path / "images").symlink_to(work / "images")
    for target in ("image_embedding", "patches"):
        ((_, manifest),) = encode_workspace(EncodeRequest(recipe, tmp_path, [target], ["val"], batch_size=3))
        assert manifest == FeatureShards(work / "features" / target / "val").manifest


def copied(workspace, tmp_path):
    recipe, work = workspace
    shutil.copytree(work, tmp_path / "work")
    return recipe, tmp_path / "work"


def encode(recipe, work, *targets):
    return list(encode_workspace(EncodeRequest(recipe, work, targets, ["val"])))


def test_a_newly_trained_stage_does_not_mix_with_old_features(workspace, tmp_path):
    recipe, work = copied(workspace, tmp_path)
    export_stages(recipe, work, seed=1)
    with pytest.raises(MismatchError, match=r"weights\w* of .*causal.val is"):
        encode(recipe, work, "causal")
    with pytest.raises(MismatchError, match="Q-Former's weights behind the causal embeddings"):
        encode(recipe, work, "codes")
    shutil.rmtree(work / "features" / "causal")
    encode(recipe, work, "causal")
    shutil.rmtree(work / "features" / "codes")
    encode(recipe, work, "codes")


def test_an_export_with_equal_weights_is_the_same_encoder(workspace, tmp_path):
    recipe, work = copied(workspace, tmp_path)
    config = work / "causal_qformer" / "export" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "provenance": {"step": 7}}))
    encode(recipe, work, "causal", "codes")


def test_other_image_weights_are_refused(workspace, clip, tmp_path):
    _, work = copied(workspace, tmp_path)
    shutil.copytree(resolve("embedded:clip"), tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer_config.json").write_text(
        (tmp_path / "clip" / "tokenizer_config.json").read_text() + "\n"
    )
    other = small_recipe(clip, f"backbones.image_encoder={tmp_path / 'clip'}")
    with pytest.raises(MismatchError, match=r"of .*patches.val is"):
        encode(other, work, "patches")
    with pytest.raises(MismatchError, match="image encoder's weights behind the patch features"):
        encode(other, work, "causal")


def test_what_comes_first_is_said(workspace, clip, tmp_path):
    recipe, _ = workspace
    with pytest.raises(DataError, match=r"images/val does not exist.*data_prep/shard.py"):
        encode(recipe, tmp_path, "patches")
    with pytest.raises(
        DataError, match=r"stage causal_qformer is not finished. Run python -m seed_dist.train .*--stage causal"
    ):
        encode(recipe, tmp_path, "causal")
    export_stages(recipe, tmp_path)
    with pytest.raises(DataError, match=r"features/patches/val does not exist"):
        encode(recipe, tmp_path, "causal")
    with pytest.raises(ConfigError, match="target 'pathces' is unknown; choose among patches, image_embedding"):
        EncoderMaker(recipe, tmp_path, "cpu").make("pathces")
