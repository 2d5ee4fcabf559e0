"""Published files become folders that load, and come back bit for bit; what they hold gives what it gave before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seed_dist.convert.carried import CARRIED_NAME
from seed_dist.convert.sizes import Told
from seed_dist.convert.to_ours import ToOurs, convert_to_ours
from seed_dist.convert.to_published import convert_to_published
from seed_dist.fsio import sha256_file
from seed_dist.models.model_files import exported_state
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from tests.unit.convert import published
from tests.unit.convert.published import CODEBOOK, POSITIONS, QFORMER, VIT, assert_same, saved, tensors_of

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
recorded = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"recorded outputs are not at {GOLDEN}")


def there_and_back(source: Path, folder: Path, told: Told | None = None, suffix: str = ".pt") -> tuple[str, Path]:
    """(summary of the way there, the file that came back)."""
    lines = convert_to_ours(ToOurs(source, folder / "ours", told or Told()))
    back = folder / f"back{suffix}"
    convert_to_published(folder / "ours", back)
    return "\n".join(lines), back


@pytest.mark.parametrize("head", ["mlp", "reverse_qformer"])
def test_a_tokenizer_with_and_without_its_vit(tmp_path, head):
    weights = published.tokenizer(head)
    source = saved(tmp_path / "seed_quantizer.pt", {**weights, **VIT, **POSITIONS})
    summary, back = there_and_back(source, tmp_path)
    assert f"tokenizer with head {head}" in summary
    assert "left out  2 x visual_encoder.*: the frozen ViT is loaded from its own assets" in summary
    assert "left out  1 x position_ids" in summary
    assert f"{len(weights)} tensors of float32" in summary
    assert_same(torch.load(back, weights_only=True), weights)  # the tensors themselves, like seed_quantizer.pt

    model = SeedTokenizer.from_pretrained(tmp_path / "ours")
    assert not model.qformer.has_text_path
    layout, codebook = model.qformer.config, model.quantizer.config
    for name in ("queries", "width", "layers", "heads", "mlp_width", "cross_every", "vision_width", "causal"):
        assert getattr(layout, name) == getattr(QFORMER, name), name
    names = [name for name in CODEBOOK if head == "reverse_qformer" or name != "head_layers"]
    assert {name: getattr(codebook, name) for name in names} == {name: CODEBOOK[name] for name in names}
    assert codebook.head == head
    for name in ("queries", "width", "layers", "mlp_width", "vision_width"):
        assert f"{name} {getattr(QFORMER, name)}" in summary
    assert model.provenance["converted_from"]["files"] == [[source.name, sha256_file(source)]]

    (tmp_path / "bare").mkdir()
    bare, back = there_and_back(saved(tmp_path / "bare.pt", weights), tmp_path / "bare")
    assert "left out" not in bare
    assert_same(tensors_of(back), weights)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_stage_1_checkpoint(tmp_path, suffix):
    weights = published.stage1()
    source = saved(tmp_path / "checkpoint_0.pth", published.training({**weights, **POSITIONS}))
    summary, back = there_and_back(source, tmp_path, suffix=suffix)
    assert "causal Q-Former of stage 1" in summary
    assert "not needed: optimizer, config, scaler, epoch" in summary
    assert "kept      4 x Qformer.cls" in summary
    if suffix == ".pt":
        assert set(torch.load(back, weights_only=True)) == {"model"}
    assert_same(tensors_of(back) if suffix == ".pt" else load_file(back), weights)
    with safe_open(tmp_path / "ours" / CARRIED_NAME, "pt") as file:
        assert len(list(file.keys())) == 3  # the output matrix is the word embedding
    assert CausalQFormer.from_pretrained(tmp_path / "ours").config.causal


def test_blip2_is_what_stage_1_starts_from(tmp_path):
    weights = published.blip2()
    source = saved(tmp_path / "blip2_pretrained.pth", {"model": {**weights, **VIT}})
    summary, back = there_and_back(source, tmp_path)
    assert "BLIP-2 Q-Former of stage 1, bidirectional" in summary
    assert "6 x Qformer.cls, itm_head" in summary
    assert f"backbones.qformer={tmp_path / 'ours'}" in summary
    assert_same(tensors_of(back), weights)
    assert not CausalQFormer.from_pretrained(tmp_path / "ours").config.causal

    model = CausalQFormer(QFORMER)
    model.start_from(tmp_path / "ours")
    convert_to_ours(ToOurs(saved(tmp_path / "x.pt", published.stage1(seed=2)), tmp_path / "causal"))
    assert_same(exported_state(model), exported_state(CausalQFormer.from_pretrained(tmp_path / "causal")))
    assert model.config.causal


def test_the_two_checkpoints_of_the_published_training(tmp_path):
    first = published.stage1()
    second = {**published.stage2(), "Qformer.bert.embeddings.position_ids": torch.arange(12)[None]}
    clip = {"clip_model.vision_model.embeddings.position_ids": torch.arange(5)}
    source = saved(tmp_path / "stage2.pth", published.training({**second, **clip}))
    qformer = saved(tmp_path / "stage1.pth", published.training(first))
    summary = "\n".join(convert_to_ours(ToOurs(source, tmp_path / "ours", qformer=qformer)))
    assert "1 x clip_model.*: the frozen CLIP" in summary
    assert SeedTokenizer.from_pretrained(tmp_path / "ours").qformer.has_text_path
    convert_to_published(tmp_path / "ours", tmp_path / "back.pt")
    del second["Qformer.bert.embeddings.position_ids"]
    assert_same(tensors_of(tmp_path / "back.pt"), {**first, **second})


def test_half_precision_keeps_its_values(tmp_path):
    weights = {name: tensor.half() for name, tensor in published.tokenizer().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "half.safetensors")
    summary, back = there_and_back(tmp_path / "half.safetensors", tmp_path)
    assert "tensors of float16" in summary
    assert_same(tensors_of(back), {name: tensor.float() for name, tensor in weights.items()})


def test_equal_files_give_equal_folders_and_ours_come_back_as_they_were(tmp_path):
    source = saved(tmp_path / "a.pt", published.tokenizer())
    back = there_and_back(source, tmp_path)[1]
    convert_to_ours(ToOurs(back, tmp_path / "again"))
    for name in ("model.safetensors", "config.json"):
        first, second = ((tmp_path / folder / name) for folder in ("ours", "again"))
        if name == "model.safetensors":
            assert first.read_bytes() == second.read_bytes()
        else:
            values = [json.loads(path.read_text()) for path in (first, second)]
            assert all(value.pop("provenance") for value in values)
            assert values[0] == values[1]


@recorded
@pytest.mark.parametrize("name", ["causal_qformer_stage1", "seed_quantizer_mlp_head", "seed_quantizer_reverse_qformer"])
def test_recorded_modules_give_their_recorded_outputs(tmp_path, name):
    golden = load_file(GOLDEN / f"{name}.safetensors")
    weights = {key.split("/", 1)[1]: tensor for key, tensor in golden.items() if key.startswith("weights/")}
    save_file(weights, tmp_path / "x.safetensors")
    back = there_and_back(tmp_path / "x.safetensors", tmp_path, Told(heads=12), ".safetensors")[1]
    skipped = weights.keys() - load_file(back).keys()
    assert all(key.endswith("position_ids") for key in skipped)
    assert_same(load_file(back), {key: tensor for key, tensor in weights.items() if key not in skipped})
    patches = golden["in/patch_features"]
    if "out/codes" in golden:
        model = SeedTokenizer.from_pretrained(tmp_path / "ours")
        ids = model.encode(patches)
        assert torch.equal(ids, golden["out/codes"])
        found, key = model.decode_embeddings(ids), "out/generation_embedding"
    else:
        found, key = CausalQFormer.from_pretrained(tmp_path / "ours").embed_image(patches), "out/causal_embeddings"
    torch.testing.assert_close(found, golden[key].reshape(found.shape), rtol=0, atol=2e-5)
