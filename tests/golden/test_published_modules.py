"""Our modules against the published ones: recorded outputs of small instances, gradients against plain formulas."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from seed_dist import losses
from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.errors import MismatchError
from seed_dist.models.interop import load_published, published_names, to_published
from seed_dist.models.model_files import exported_state
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer
from tests.golden import naive

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
TOLERANCE = 2e-5
FILES = {
    "stage1": "causal_qformer_stage1",
    "mlp": "seed_quantizer_mlp_head",
    "reverse_qformer": "seed_quantizer_reverse_qformer",
}
recorded = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"recorded outputs are not at {GOLDEN}")


class Golden(NamedTuple):
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    sizes: dict[str, str]


def read(kind: str) -> Golden:
    with safe_open(GOLDEN / f"{FILES[kind]}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        sizes = file.metadata()
    parts = [
        {name.split("/", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{part}/")}
        for part in ("weights", "in", "out")
    ]
    assert sum(map(len, parts)) == len(tensors)
    return Golden(*parts, sizes)


def qformer_config(sizes: dict[str, str]) -> QFormerConfig:
    return QFormerConfig(
        queries=int(sizes["queries"]),
        width=int(sizes["hidden"]),
        layers=int(sizes["layers"]),
        heads=int(sizes["heads"]),
        mlp_width=int(sizes["intermediate"]),
        cross_every=int(sizes["cross_attention_freq"]),
        vision_width=int(sizes["encoder_width"]),
        projection_width=int(sizes.get("projection", 1)),
        vocabulary_size=int(sizes.get("vocab", 1)),
        text_positions=int(sizes.get("max_position_embeddings", 1)),
        label_smoothing=float(sizes.get("label_smoothing", 0)),
    )


def build(kind: str, sizes: dict[str, str]) -> CausalQFormer | SeedTokenizer:
    config = qformer_config(sizes)
    if kind == "stage1":
        return CausalQFormer(config)
    codebook = CodebookConfig(
        size=int(sizes["codebook_size"]),
        width=int(sizes["code_dim"]),
        decoder_layers=int(sizes["decoder_depth"]),
        decoder_heads=int(sizes["heads"]),
        head=kind,
        head_layers=int(sizes["layers"]),
        generation_width=int(sizes["image_embedding_dim"]),
        codebook_weight=float(sizes["beta"]),
    )
    quantizer = SeedQuantizer.for_qformer(codebook, config)
    return SeedTokenizer(CausalQFormer(config, text_path=False), quantizer, BackboneConfig())


def assert_equal_outputs(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            value = found[name].reshape(tensor.shape)
            torch.testing.assert_close(
                value, tensor, rtol=0, atol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert torch.equal(found[name], tensor), name


def stage1_outputs(model: CausalQFormer, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    causal = model.embed_image(inputs["patch_features"])
    hidden = model.embed_text(inputs["input_ids"], inputs["attention_mask"])
    image, text = model.image_feature(causal), model.text_feature(hidden)
    loss = losses.contrastive_loss(image, text, model.temperature, model.config.label_smoothing)
    return {
        "causal_embeddings": causal,
        "text_hidden": hidden,
        "image_feature": image,
        "text_feature": text,
        "contrastive_loss": loss,
    }


def tokenizer_outputs(model: SeedTokenizer, patch_features: Tensor) -> dict[str, Tensor]:
    causal = model.qformer.embed_image(patch_features)
    out = model.quantizer(causal)
    return {
        "causal_embeddings": causal,
        "codes": out.quantized.codes,
        "decoded_embeddings": model.quantizer.decode_vectors(out.quantized.vectors),
        "reconstructed_embeddings": out.reconstructed,
        "generation_embedding": out.generation,
        "codebook_loss": losses.quantizer_loss(out.quantized, model.quantizer.config),
        "reconstruction_loss": losses.reconstruction_loss(out.reconstructed, causal),
    }


@recorded
def test_stage1_outputs():
    golden = read("stage1")
    model = build("stage1", golden.sizes)
    carried = load_published(model, golden.weights, "golden")
    assert sorted(carried) == sorted(name for name in golden.weights if name.startswith("Qformer.cls."))
    assert_equal_outputs(stage1_outputs(model.eval(), golden.inputs), golden.outputs)


@recorded
@pytest.mark.parametrize("kind", ["mlp", "reverse_qformer"])
def test_tokenizer_outputs(kind):
    golden = read(kind)
    model = build(kind, golden.sizes)
    assert load_published(model, golden.weights, "golden") == {}
    assert_equal_outputs(tokenizer_outputs(model, golden.inputs["patch_features"]), golden.outputs)
    # What users call gives the same.
    ids = model.encode(golden.inputs["patch_features"])
    assert torch.equal(ids, golden.outputs["codes"])
    assert len(ids.unique()) > 8
    close = {"rtol": 0, "atol": TOLERANCE}
    torch.testing.assert_close(model.reconstruct(ids), golden.outputs["reconstructed_embeddings"], **close)
    torch.testing.assert_close(model.decode_embeddings(ids), golden.outputs["generation_embedding"], **close)


@recorded
@pytest.mark.parametrize("kind", FILES)
def test_every_name_goes_both_ways(kind):
    golden = read(kind)
    model = build(kind, golden.sizes)
    carried = load_published(model, golden.weights, "golden")
    back = to_published(exported_state(model), carried)
    skipped = golden.weights.keys() - back.keys()
    assert back.keys() <= golden.weights.keys()
    assert skipped
    assert all(name.endswith("position_ids") for name in skipped)
    assert all(torch.equal(tensor, golden.weights[name]) for name, tensor in back.items())


@recorded
def test_plain_formulas_agree_with_the_published_outputs():
    """So that the gradient tests below rest on more than our own reading."""
    golden = read("stage1")
    heads = int(golden.sizes["heads"])
    causal = naive.causal_embeddings(golden.weights, golden.inputs["patch_features"], heads)
    hidden = naive.text_hidden(golden.weights, golden.inputs["input_ids"], golden.inputs["attention_mask"], heads)
    found = {
        "causal_embeddings": causal,
        "text_hidden": hidden,
        "contrastive_loss": naive.contrastive_loss(golden.weights, causal, hidden, 0.1),
    }
    assert_equal_outputs(found, {name: golden.outputs[name] for name in found})
    for kind in ("mlp", "reverse_qformer"):
        golden = read(kind)
        causal = naive.causal_embeddings(golden.weights, golden.inputs["patch_features"], heads)
        found = {"causal_embeddings": causal, **naive.tokenizer(golden.weights, causal, heads)}
        assert_equal_outputs(found, golden.outputs)


# The tests below need no recorded outputs: random weights of small sizes.

SMALL = {
    "queries": "5",
    "hidden": "24",
    "layers": "3",
    "heads": "3",
    "intermediate": "40",
    "cross_attention_freq": "2",
    "encoder_width": "14",
    "projection": "10",
    "vocab": "30",
    "max_position_embeddings": "12",
    "label_smoothing": "0.1",
    "codebook_size": "11",
    "code_dim": "6",
    "decoder_depth": "2",
    "image_embedding_dim": "9",
    "beta": "0.25",
}


def random_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Published-name weights in float64, wide enough that every term of every gradient matters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in to_published(exported_state(model)).items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.3
        is_scale = "norm" in name.lower() or name == "temp" or name.startswith("ln_")
        weights[name] = noise + 1 if is_scale and name.endswith(("weight", "temp")) else noise
    return weights


def assert_equal_gradients(model: nn.Module, loss: Tensor, weights: dict[str, Tensor], naive_loss: Tensor) -> None:
    """Every parameter's gradient, under published names; parameters outside both graphs count as zero."""
    torch.testing.assert_close(loss.double(), naive_loss, rtol=1e-6, atol=1e-9)
    loss.backward()
    found = to_published(
        {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    )
    naive.assert_gradients(found, naive_loss, weights, 1e-5)  # features and codes are compared in float32 here too


@pytest.mark.parametrize("last_only", [False, True])
def test_stage1_gradients(last_only):
    model = build("stage1", SMALL)
    model = model.eval().double()  # dropout off
    weights = random_weights(model, seed=1)
    load_published(model, weights, "random")
    weights = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    generator = torch.Generator().manual_seed(2)
    patches = torch.randn(4, 7, 14, generator=generator)
    input_ids = torch.randint(30, (4, 6), generator=generator)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [5], [1]])).long()

    causal = model.embed_image(patches, last_only=last_only)
    hidden = model.embed_text(input_ids, mask)
    features = model.image_feature(causal), model.text_feature(hidden)
    loss = losses.contrastive_loss(*features, model.temperature, 0.1)
    plain_causal = naive.causal_embeddings(weights, patches.double(), 3)
    plain_hidden = naive.text_hidden(weights, input_ids, mask, 3)
    assert_equal_gradients(model, loss, weights, naive.contrastive_loss(weights, plain_causal, plain_hidden, 0.1))


@pytest.mark.parametrize("kind", ["mlp", "reverse_qformer"])
def test_stage2_gradients(kind):
    model = build(kind, SMALL).double()
    weights = random_weights(model, seed=3)
    load_published(model, weights, "random")
    trained = model.quantizer.eval().requires_grad_(True)
    names = {name for ours, _ in trained.named_parameters() for name in published_names(f"quantizer.{ours}")}
    weights = {name: tensor.requires_grad_() for name, tensor in weights.items() if name in names}
    generator = torch.Generator().manual_seed(4)
    causal = torch.randn(4, 5, 24, generator=generator, dtype=torch.float64)
    target = torch.randn(4, 9, generator=generator, dtype=torch.float64)

    out = trained(causal)
    terms = losses.codebook_losses(out, causal, target, trained.config)
    plain = naive.tokenizer(weights, causal, 3)
    image_loss = (plain["generation_embedding"] - target).square().mean()
    assert torch.equal(plain["codes"], out.quantized.codes)
    assert len(out.quantized.codes.unique()) > 3
    naive_loss = 5 * plain["codebook_loss"] + 2 * plain["reconstruction_loss"] + 0.5 * image_loss

    wrapper = nn.Module()
    wrapper.quantizer = trained
    assert_equal_gradients(wrapper, terms["loss"], weights, naive_loss)


def random_published(kind: str, sizes: dict[str, str] = SMALL) -> dict[str, Tensor]:
    return to_published(exported_state(build(kind, sizes)))


def test_unknown_and_missing_names_are_all_listed():
    weights = random_published("stage1")
    del weights["temp"], weights["Qformer.bert.encoder.layer.1.attention.self.value.bias"]
    weights["blocks.0.norm1.weight"] = torch.zeros(1)
    with pytest.raises(MismatchError) as caught:
        load_published(build("stage1", SMALL), weights, "x.pt")
    text = str(caught.value)
    assert "2 missing: Qformer.bert.encoder.layer.1.attention.self.value.bias, temp" in text
    assert "1 unknown: blocks.0.norm1.weight" in text
    assert "x.pt" in text


def test_only_position_ids_are_dropped():
    weights = {**random_published("stage1"), "Qformer.bert.embeddings.position_ids": torch.arange(12)[None]}
    assert load_published(build("stage1", SMALL), weights, "x") == {}
    weights["Qformer.bert.embeddings.position_idz"] = torch.arange(12)[None]
    with pytest.raises(MismatchError, match="position_idz"):
        load_published(build("stage1", SMALL), weights, "x")


def test_a_head_that_does_not_match_is_named():
    with pytest.raises(MismatchError, match="head mlp where the model has reverse_qformer"):
        load_published(build("reverse_qformer", SMALL), random_published("mlp"), "x")


def test_another_depth_is_an_error_and_not_half_loaded():
    deeper = random_published("reverse_qformer", {**SMALL, "layers": "4"})
    model = build("reverse_qformer", SMALL)
    before = {name: tensor.clone() for name, tensor in exported_state(model).items()}
    with pytest.raises(MismatchError, match=r"Reverse_Qformer\.bert\.encoder\.layer\.3"):
        load_published(model, deeper, "x")
    assert all(torch.equal(tensor, before[name]) for name, tensor in exported_state(model).items())


def test_a_caption_head_that_is_not_tied_is_refused():
    weights = random_published("stage1")
    weights["Qformer.cls.predictions.decoder.weight"] = torch.zeros(30, 24)
    with pytest.raises(MismatchError, match="matrix of its own"):
        load_published(build("stage1", SMALL), weights, "x")
