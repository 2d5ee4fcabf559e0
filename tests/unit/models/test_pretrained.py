"""Exports: what is saved comes back, what does not fit is refused by name; the tokenizer as its users call it."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.data.codec import check_image, decode_image
from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer
from seed_dist.models.painter import load_painter
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.small_painter import build_painter, save_painter
from seed_dist.models.tokenizer import SeedQuantizer
from seed_dist.models.vision import FrozenClip
from tests.pictures import odd_pictures
from tests.unit.models.tiny_pipelines import TEXT_WIDTH, TOKENS, save_stable_diffusion

QFORMER = QFormerConfig(
    queries=8,
    width=16,
    layers=2,
    heads=2,
    mlp_width=24,
    vision_width=24,
    projection_width=10,
    max_text_tokens=12,
    text_positions=16,
    vocabulary_size=60,
)
CODEBOOK = CodebookConfig(size=50, width=6, decoder_layers=1, decoder_heads=2, head="mlp", generation_width=14)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A random CLIP of three small blocks, in open_clip's folder layout, with its tokenizer."""
    import open_clip  # after seed_dist.models, whose torchvision guard it needs

    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 24, "head_width": 12}
    text = {"context_length": 16, "vocab_size": len(build_tokenizer()), "width": 16, "heads": 2, "layers": 1}
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": {"embed_dim": 14, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "x"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": preprocess}))
    save_tokenizer(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def tokenizer(clip_folder) -> SeedTokenizer:
    torch.manual_seed(0)
    qformer, quantizer = CausalQFormer(QFORMER), SeedQuantizer.for_qformer(CODEBOOK, QFORMER)
    for parameter in qformer.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    backbones = BackboneConfig(image_encoder=str(clip_folder), text_tokenizer=str(clip_folder))
    model = SeedTokenizer(qformer, quantizer, backbones, {"steps": 3, "parents": {"causal": "abc"}})
    with torch.no_grad():
        vectors = quantizer.encode_vectors(model.causal_embeddings(features(200)))
    quantizer.quantizer.initialise_from(vectors.flatten(0, 1), seed=0)
    quantizer.quantizer.record_usage(torch.arange(3))
    return model


def features(count: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, 7, 24, generator=torch.Generator().manual_seed(seed))


def pictures(count: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def test_tokenizer_comes_back_as_it_was(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "export")
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == names
    copy = SeedTokenizer.from_pretrained(tmp_path / "export")
    ids = tokenizer.encode(features(9))
    assert len(ids.unique()) > 10
    assert torch.equal(copy.encode(features(9)), ids)
    assert torch.equal(copy.reconstruct(ids), tokenizer.reconstruct(ids))
    assert torch.equal(copy.decode_embeddings(ids), tokenizer.decode_embeddings(ids))
    assert torch.equal(copy.text_feature(["a red star"]), tokenizer.text_feature(["a red star"]))
    assert copy.processor == tokenizer.processor
    assert copy.provenance == tokenizer.provenance
    assert copy.backbones == tokenizer.backbones
    assert (copy.qformer.config, copy.quantizer.config) == (QFORMER, CODEBOOK)
    assert copy.quantizer.quantizer.usage() == (0.0, 0.0)  # training statistics stay behind
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert not any(module.training for module in copy.modules())


def test_equal_models_give_equal_files(tokenizer, tmp_path):
    for name in ("a", "b"):
        tokenizer.save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_tokenizer_without_text_path(tmp_path):
    backbones = BackboneConfig()
    model = SeedTokenizer(
        CausalQFormer(QFORMER, text_path=False), SeedQuantizer.for_qformer(CODEBOOK, QFORMER), backbones
    )
    model.save_pretrained(tmp_path)
    copy = SeedTokenizer.from_pretrained(tmp_path)
    assert copy.encode(features(2)).shape == (2, 8)
    for call in (lambda: copy.text_feature(["x"]), lambda: copy.image_feature(features(2))):
        with pytest.raises(DataError, match="without the contrastive heads"):
            call()


def test_qformer_comes_back_as_it_was(tokenizer, tmp_path):
    tokenizer.qformer.save_pretrained(tmp_path, tokenizer.backbones, {"steps": 3})
    copy = CausalQFormer.from_pretrained(tmp_path)
    assert torch.equal(copy.embed_image(features(3)), tokenizer.qformer.embed_image(features(3)))
    assert json.loads((tmp_path / "config.json").read_text())["provenance"] == {"steps": 3}


def test_ids_do_not_depend_on_the_batch(tokenizer):
    tokenizer.batch_size = 150
    together = tokenizer.encode(features(150))
    for size in (1, 64):
        tokenizer.batch_size = size
        assert torch.equal(tokenizer.encode(features(150)), together)


def test_pictures_and_their_features_give_the_same_ids(tokenizer, clip_folder):
    encoder = FrozenClip(str(clip_folder))
    patch_features = encoder.patch_features(torch.stack([encoder.preprocess(picture) for picture in pictures(5)]))
    ids = tokenizer.encode(pictures(5))
    assert ids.dtype == torch.int64
    assert ids.device.type == "cpu"
    assert len(ids.unique()) > 10
    assert torch.equal(ids, tokenizer.encode(patch_features))
    assert torch.equal(ids, tokenizer.encode(tokenizer.processor(pictures(5))))
    assert torch.equal(ids, tokenizer.encode([np.asarray(picture) for picture in pictures(5)]))
    alone = torch.cat([tokenizer.encode(picture) for picture in pictures(5)])
    assert torch.equal(alone, ids)


@pytest.mark.parametrize("name", odd_pictures())
def test_a_picture_of_any_kind_has_the_ids_that_it_has_in_a_data_set(tokenizer, name):
    data = odd_pictures()[name]
    with Image.open(io.BytesIO(data)) as image:
        assert torch.equal(tokenizer.encode(image), tokenizer.encode(decode_image(check_image(data)[1])))


def test_pictures_that_cannot_be_used_are_counted_over_all_blocks(tokenizer):
    tokenizer.batch_size = 2
    for call in (tokenizer.encode, tokenizer.causal_embeddings, tokenizer.image_feature):
        with pytest.raises(DataError, match="picture 3 cannot be used: 1 x 1 pixels"):
            call([*pictures(3), Image.new("RGB", (1, 1))])
        with pytest.raises(DataError, match=r"images are a str\. Give PIL images"):
            call("cat.jpg")


def test_an_encoder_with_other_pre_processing_is_refused(tokenizer, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    tokenizer.backbones = replace(tokenizer.backbones, image_encoder=str(tmp_path / "clip"))
    tokenizer.save_pretrained(tmp_path / "export")
    settings = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    settings["preprocess_cfg"]["interpolation"] = "bilinear"
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(MismatchError, match=r"pre-processing of .*bilinear.*bicubic.* is needed"):
        SeedTokenizer.from_pretrained(tmp_path / "export").encode(pictures(1))


def test_an_export_without_the_image_encoder_at_hand(tokenizer, clip_folder, tmp_path):
    """Trained from features where the encoder is not: the export works, and the encoder's own settings are used."""
    tokenizer.backbones = replace(tokenizer.backbones, image_encoder=str(tmp_path / "clip"))
    tokenizer.save_pretrained(tmp_path / "export")
    assert not (tmp_path / "export" / "preprocessor_config.json").exists()
    copy = SeedTokenizer.from_pretrained(tmp_path / "export")
    with pytest.raises(ConfigError, match=r"clip.* is no folder"):
        copy.encode(pictures(1))
    shutil.copytree(clip_folder, tmp_path / "clip")
    assert torch.equal(copy.encode(pictures(3)), tokenizer.encode(pictures(3)))


@pytest.mark.parametrize("nothing", [[], torch.empty(0, 7, 24), torch.empty(0, 3, 32, 32)])
def test_an_empty_batch(tokenizer, nothing):
    ids = tokenizer.encode(nothing)
    assert ids.shape == (0, 8)
    assert torch.equal(tokenizer.decode_embeddings([]), tokenizer.decode_embeddings(ids))
    assert tokenizer.reconstruct(ids).shape == (0, 8, 16)
    assert tokenizer.decode_embeddings(ids).shape == (0, 14)
    assert tokenizer.text_feature([]).shape == (0, 10)


def test_retrieval_features(tokenizer):
    image, code = tokenizer.image_feature(features(4)), tokenizer.code_feature(tokenizer.encode(features(4)))
    text = tokenizer.text_feature(["a red star", "a blue moon", "a ring"])
    assert (image.shape, code.shape, text.shape) == ((4, 10), (4, 10), (3, 10))
    torch.testing.assert_close(torch.cat([image, code, text]).norm(dim=1), torch.ones(11))
    tokenizer.batch_size = 1  # unpadded
    torch.testing.assert_close(tokenizer.text_feature(["a red star", "a blue moon", "a ring"]), text)


def test_painting_is_seeded_and_batched(tokenizer, tmp_path):
    torch.manual_seed(0)
    save_painter(tmp_path, build_painter(CODEBOOK.generation_width))
    tokenizer.backbones = replace(tokenizer.backbones, painter=str(tmp_path))
    ids = tokenizer.encode(features(3))

    def pixels(ids: torch.Tensor, seed: int) -> list[bytes]:
        return [picture.tobytes() for picture in tokenizer.paint(ids, seed=seed, steps=1)]

    painted = pixels(ids, 0)
    assert len(set(painted)) == 3
    assert pixels(ids, 0) == painted
    assert pixels(ids[:1], 1) != painted[:1]
    assert tokenizer.paint([]) == []
    with pytest.raises(ConfigError, match=r"steps is 0; at least 1 is needed\n.*guidance is -1"):
        tokenizer.paint(ids, steps=0, guidance=-1)


def test_stable_diffusion_paints_from_text_features(tokenizer, tmp_path):
    """A head of 77 queries, as in SEED-1, drives Stable Diffusion; the ids of one image drive the others away."""
    painter = save_stable_diffusion(tmp_path / "painter")
    layout = replace(CODEBOOK, head="reverse_qformer", head_queries=TOKENS, generation_width=TEXT_WIDTH)
    layout = replace(layout, head_layers=1)
    torch.manual_seed(0)
    model = SeedTokenizer(
        tokenizer.qformer, SeedQuantizer.for_qformer(layout, QFORMER), replace(BackboneConfig(), painter=str(painter))
    )
    ids = torch.randint(0, 50, (2, 8))
    assert model.decode_embeddings(ids).shape == (2, TOKENS, TEXT_WIDTH)
    negative = torch.randint(0, 50, (1, 8))
    found = model.paint(ids, seed=4, steps=2, guidance=3.0, negative=negative[0])
    embeddings, away = model.decode_embeddings(ids), model.decode_embeddings(negative)
    expected = load_painter(str(painter)).paint(embeddings, 4, 2, 3.0, away)
    assert [picture.tobytes() for picture in found] == [picture.tobytes() for picture in expected]
    assert found[0].tobytes() != model.paint(ids, seed=4, steps=2, guidance=3.0)[0].tobytes()
    with pytest.raises(DataError, match=r"ids are torch.int64 \(1, 7\)"):
        model.paint(ids, negative=negative[:, :7])


def test_a_painter_of_other_embeddings_is_refused(tokenizer, tmp_path):
    painter = save_stable_diffusion(tmp_path / "painter")
    tokenizer.backbones = replace(tokenizer.backbones, painter=str(painter))
    with pytest.raises(MismatchError, match=r"painter .*/painter reads is \[77, 12\], but \[14\] is needed"):
        tokenizer.paint(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 7, dtype=torch.int64), r"\(2, 7\).*\[images, 8\]"),
        (torch.zeros(2, 9, dtype=torch.int64), r"\(2, 9\)"),
        (torch.zeros(7, dtype=torch.int64), r"\(7,\)"),
        (torch.zeros(1, 2, 8, dtype=torch.int64), r"\(1, 2, 8\)"),
        (torch.zeros(2, 8), "float32"),
        (torch.zeros(2, 8, dtype=torch.bool), "bool"),
        (torch.zeros(2, 8, dtype=torch.complex64), "complex64"),
        ([[1] * 8, [1] * 7], "a list that makes no tensor"),
        (["1 2 3"], "a list that makes no tensor"),
        (None, "a NoneType that makes no tensor"),
        (torch.full((1, 8), 50), "50, but this codebook has 0 to 49"),
        (torch.full((1, 8), -1), "-1"),
        (np.full((1, 8), 2**64 - 1, dtype=np.uint64), "-1"),
    ],
)
def test_wrong_ids(tokenizer, ids, message):
    for call in (tokenizer.reconstruct, tokenizer.decode_embeddings, tokenizer.code_feature, tokenizer.paint):
        with pytest.raises(DataError, match=message):
            call(ids)


def test_ids_of_any_integer_type_and_form(tokenizer):
    ids = tokenizer.encode(features(3))
    expected = tokenizer.decode_embeddings(ids)
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64):
        assert torch.equal(tokenizer.decode_embeddings(ids.numpy().astype(kind)), expected)
        assert torch.equal(tokenizer.decode_embeddings(torch.from_numpy(ids.numpy().astype(kind))), expected)
    assert torch.equal(tokenizer.decode_embeddings(ids.tolist()), expected)
    assert torch.equal(tokenizer.decode_embeddings(ids[0]), tokenizer.decode_embeddings(ids[:1]))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 7, 23),
        torch.zeros(7, 24),
        torch.zeros(2, 7, 24, dtype=torch.int64),
        torch.zeros(2, 3, 31, 32),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_wrong_features(tokenizer, wrong):
    with pytest.raises(DataError, match=r"\[B, P, 24\]"):
        tokenizer.encode(wrong)


@pytest.fixture
def export(tokenizer, tmp_path) -> Path:
    tokenizer.save_pretrained(tmp_path / "export")
    return tmp_path / "export"


def edit_weights(export: Path, change) -> None:
    weights = load_file(export / "model.safetensors")
    change(weights)
    save_file(weights, export / "model.safetensors")


def test_missing_unknown_and_misshapen_weights_are_listed(export):
    def change(weights):
        del weights["quantizer.encode.0.bias"], weights["qformer.ln_vision.weight"]
        weights["qformer.extra"] = torch.zeros(1)
        weights["quantizer.quantizer.embedding.weight"] = torch.zeros(3, 6)

    edit_weights(export, change)
    with pytest.raises(MismatchError) as caught:
        SeedTokenizer.from_pretrained(export)
    text = str(caught.value)
    assert "2 missing: qformer.ln_vision.weight, quantizer.encode.0.bias" in text
    assert "1 unknown: qformer.extra" in text
    assert "quantizer.quantizer.embedding.weight (3, 6) instead of (50, 6)" in text
    assert "model.safetensors" in text


def edit_config(export: Path, change) -> None:
    values = json.loads((export / "config.json").read_text())
    change(values)
    (export / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.pop("codebook"), DataError, "section 'codebook'"),
        (lambda c: c["codebook"].update(size="big"), DataError, "size"),
        (lambda c: c["qformer"].update(colour=1), DataError, "colour"),
        (lambda c: c.update(model_type="bert"), MismatchError, "bert"),
        (lambda c: c.update(format=99), MismatchError, "99"),
        (lambda c: c["codebook"].update(head="reverse_qformer"), MismatchError, "head"),
    ],
)
def test_a_configuration_that_does_not_fit(export, change, error, message):
    edit_config(export, change)
    with pytest.raises(error, match=message):
        SeedTokenizer.from_pretrained(export)


def test_a_stage_1_export_is_not_a_tokenizer(tokenizer, tmp_path):
    tokenizer.qformer.save_pretrained(tmp_path, tokenizer.backbones, {})
    with pytest.raises(MismatchError, match="seed_causal_qformer"):
        SeedTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_and_missing_files_are_named(export, name):
    (export / name).write_bytes(b"{ not")
    with pytest.raises(DataError, match=name):
        SeedTokenizer.from_pretrained(export)
    (export / name).unlink()
    with pytest.raises(DataError, match=f"holds no {name}"):
        SeedTokenizer.from_pretrained(export)
