"""python -m seed_dist.convert as users run it: what it says of files that it cannot use, and that it leaves nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seed_dist.cli import run_command
from seed_dist.config import BackboneConfig, CodebookConfig
from seed_dist.convert.__main__ import main
from seed_dist.convert.carried import CARRIED_NAME
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer
from tests.unit.convert import published
from tests.unit.convert.published import saved, tensors_of


@pytest.fixture
def convert(monkeypatch, capsys, tmp_path):
    """Run the command in `tmp_path` -> (exit code, standard output, standard error)."""
    os.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        code = run_command(main)
        return code, *capsys.readouterr()

    return run


class Harmful:
    """Unpickling it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def refused(run, arguments, code, *messages):
    before = sorted(Path().rglob("*"))
    found, out, err = run(*arguments)
    assert found == code, err
    assert out == ""
    for message in messages:
        assert message in err
    assert sorted(Path().rglob("*")) == before


def test_both_directions_and_named_backbones(convert, tmp_path):
    weights = published.tokenizer()
    saved(tmp_path / "seed.pt", weights)
    code, out, _ = convert("seed.pt", "ours", "--backbone", "image_encoder=vit", "--backbone", "painter=unclip")
    assert code == 0
    assert "heads 2: assumed, no tensor shows it; --heads N" in out
    assert "encoder   vit; it must give patch features of width 14" in out
    backbones = SeedTokenizer.from_pretrained("ours").backbones
    assert (backbones.image_encoder, backbones.painter, backbones.text_tokenizer) == ("vit", "unclip", "embedded:clip")
    code, out, _ = convert("ours", "back.pth")
    assert code == 0
    assert "to read the file back: --heads 2 --decoder-heads 2" in out
    published.assert_same(tensors_of(tmp_path / "back.pth"), weights)


def test_heads_are_what_one_says(convert, tmp_path):
    saved(tmp_path / "seed.pt", published.tokenizer())
    code, out, _ = convert("seed.pt", "ours", "--heads", 4, "--decoder-heads", 8)
    assert code == 0
    assert "qformer.heads 4: as told" in out
    model = SeedTokenizer.from_pretrained("ours")
    assert (model.qformer.config.heads, model.quantizer.config.decoder_heads) == (4, 8)


def test_missing_and_unknown_names_are_all_listed(convert, tmp_path):
    weights = published.tokenizer()
    for name in ("query_tokens", "encode_task_layer.0.bias", "Qformer.bert.encoder.layer.1.attention.self.key.bias"):
        del weights[name]
    weights["Qformer.pooler.dense.bias"] = torch.zeros(1)
    saved(tmp_path / "seed.pt", weights)
    refused(
        convert,
        ["seed.pt", "ours", "--heads", 2],
        4,
        "3 missing: Qformer.bert.encoder.layer.1.attention.self.key.bias, encode_task_layer.0.bias, query_tokens",
        "1 unknown: Qformer.pooler.dense.bias",
        "seed.pt",
    )


@pytest.mark.parametrize(("held", "asked"), [("mlp", "reverse_qformer"), ("reverse_qformer", "mlp")])
def test_the_other_head_is_named(convert, tmp_path, held, asked):
    saved(tmp_path / "seed.pt", published.tokenizer(held))
    refused(convert, ["seed.pt", "ours", "--head", asked], 4, f"head {held} where the model has {asked}")
    assert convert("seed.pt", "ours", "--head", held)[0] == 0


def test_two_heads_in_one_file(convert, tmp_path):
    mlp = {name: tensor for name, tensor in published.tokenizer("mlp").items() if name.startswith("image_down.")}
    saved(tmp_path / "seed.pt", {**published.tokenizer("reverse_qformer"), **mlp})
    refused(convert, ["seed.pt", "ours"], 4, "head mlp and reverse_qformer where the model has reverse_qformer")


def test_a_wrong_shape_is_shown(convert, tmp_path):
    weights = published.tokenizer()
    weights["pos_embed"] = torch.zeros(1, 5, 128)
    saved(tmp_path / "seed.pt", weights)
    refused(convert, ["seed.pt", "ours"], 4, "(1, 5, 128) instead of (1, 6, 128)")


def test_a_file_that_would_run_code_is_refused_and_does_not_run(convert, tmp_path):
    saved(tmp_path / "bad.pt", {"model": published.stage1(), "config": Harmful()})
    refused(
        convert, ["bad.pt", "ours"], 3, "bad.pt cannot be read as tensors and plain values", "mkdir", "may run code"
    )
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pt", b"", "x.pt cannot be read as tensors"),
        ("x.pth", b"garbage", "x.pth cannot be read as tensors"),
        ("x.safetensors", b"garbage", "x.safetensors cannot be read as safetensors"),
        ("x.ckpt", b"garbage", "ends in '.ckpt', but one of .pt, .pth, .bin, .safetensors"),
        ("x.pt", [1, 2], "holds a list"),
        ("x.pt", {}, "holds a dict without entries"),
        ("x.pt", {"a": torch.ones(1), "epoch": 3}, "1 entries: epoch"),
        ("x.pt", {"model": {}}, "without entries"),
        ("x.pt", {"linear.weight": torch.ones(1)}, "1 tensors: linear.weight"),
        ("x.pt", {"visual_encoder.cls_token": torch.ones(1)}, "no tensors. Give a checkpoint of SEED"),
        ("x.pt", {"encoder.layers.0.self_norm.weight": torch.ones(1)}, "under the names of this project"),
    ],
)
def test_files_that_hold_no_published_weights(convert, tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        saved(tmp_path / name, content)
    refused(convert, [name, "ours"], 3, message)


def test_a_truncated_file(convert, tmp_path):
    for name, write in (("x.pt", saved), ("x.safetensors", lambda path, content: save_file(content, path))):
        weights = {key: tensor.contiguous().clone() for key, tensor in published.stage1().items()}
        write(tmp_path / name, weights)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        refused(convert, [name, "ours"], 3, f"{name} cannot be read")


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_numbers_that_would_be_rounded(convert, tmp_path, kind):
    saved(tmp_path / "x.pt", {**published.stage1(), "temp": torch.ones([], dtype=kind)})
    refused(convert, ["x.pt", "ours"], 4, f"temp {kind}", "float32, float16 or bfloat16")


def test_stage_2_alone_asks_for_stage_1(convert, tmp_path):
    saved(tmp_path / "two.pth", published.training(published.stage2()))
    saved(tmp_path / "one.pth", published.training(published.stage1()))
    saved(tmp_path / "blip2.pth", published.training(published.blip2()))
    saved(tmp_path / "full.pt", published.tokenizer())
    refused(convert, ["two.pth", "ours"], 3, "two.pth holds what stage 2 trained", "--qformer FILE")
    refused(convert, ["two.pth", "ours", "--qformer", "blip2.pth"], 4, "BLIP-2's", "not causal")
    refused(convert, ["full.pt", "ours", "--qformer", "one.pth"], 4, "in both files", "Leave --qformer away")
    refused(convert, ["two.pth", "ours", "--qformer", "full.pt"], 4, "in both files")
    refused(convert, ["one.pth", "ours", "--qformer", "one.pth"], 2, "one.pth is a Q-Former itself")
    refused(convert, ["two.pth", "ours", "--qformer", "none.pth"], 3, "none.pth does not exist")


def test_heads_of_blip2_that_are_not_its_own(convert, tmp_path):
    saved(tmp_path / "x.pth", {**published.blip2(), "itm_head.weight": torch.zeros(3, 128)})
    refused(convert, ["x.pth", "ours"], 4, "matching head in x.pth", "(3, 128)")
    untied = {**published.blip2(), "Qformer.cls.predictions.decoder.weight": torch.zeros(30, 128)}
    saved(tmp_path / "y.pth", untied)
    refused(convert, ["y.pth", "ours"], 4, "a matrix of its own")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.pt", "ours"], 3, "none.pt does not exist"),
        (["one.pth", "one.pth"], 3, "one.pth is there already, and nothing is overwritten"),
        (["one.pth", "ours", "--heads", "0"], 2, "--heads is 0; at least 1"),
        (["one.pth", "ours", "--heads", "3"], 2, "--heads is 3, but a divisor of the width 128"),
        (["one.pth", "ours", "--head", "mlp"], 2, "--head belongs to a tokenizer, but one.pth is a Q-Former"),
        (["one.pth", "ours", "--decoder-heads", "2"], 2, "--decoder-heads belongs to a tokenizer"),
        (["one.pth", "ours", "--backbone", "vit=x"], 2, "NAME one of image_encoder"),
        (["one.pth", "ours", "--backbone", "painter"], 2, "'painter' must be NAME=FOLDER"),
        (["export", "x.pt", "--heads", "2"], 2, "--heads is for reading a file, but export is a folder"),
        (["export", "x"], 2, "OUT is x, but export becomes a file: .pt"),
        (["export", "one.pth"], 3, "one.pth is there already"),
        (["empty", "x.pt"], 3, "empty holds no config.json"),
    ],
)
def test_wrong_arguments(convert, tmp_path, arguments, code, message):
    saved(tmp_path / "one.pth", published.stage1())
    assert convert("one.pth", "export")[0] == 0
    (tmp_path / "empty").mkdir()
    refused(convert, arguments, code, message)


def test_a_width_without_heads_of_64(convert, tmp_path):
    saved(tmp_path / "x.pt", {**published.stage1(), "query_tokens": torch.ones(1, 6, 100)})
    refused(convert, ["x.pt", "ours"], 2, "--heads is not given, and the width 100 is no multiple of 64")


def test_other_folders_and_damaged_ones(convert, tmp_path):
    saved(tmp_path / "one.pth", published.stage1())
    convert("one.pth", "export")
    (tmp_path / "export" / CARRIED_NAME).write_bytes(b"garbage")
    refused(convert, ["export", "x.pt"], 3, CARRIED_NAME, "cannot be read")
    (tmp_path / "export" / "config.json").write_text('{"model_type": "bert"}')
    refused(convert, ["export", "x.pt"], 4, "model_type of export is 'bert'", "seed_tokenizer")


def test_a_tokenizer_of_the_prefix_extension_has_no_published_form(convert, tmp_path):
    config = CodebookConfig(head="mlp", prefix_masking=0.5, **published.CODEBOOK)
    quantizer = SeedQuantizer.for_qformer(config, published.QFORMER)
    model = SeedTokenizer(CausalQFormer(published.QFORMER, text_path=False), quantizer, BackboneConfig())
    model.save_pretrained(tmp_path / "export")
    assert torch.equal(
        SeedTokenizer.from_pretrained(tmp_path / "export").quantizer.absent, torch.zeros(published.WIDTH)
    )
    refused(convert, ["export", "x.pt"], 4, "codebook.prefix_masking of export is 0.5")


def test_a_full_disk_leaves_nothing(convert, tmp_path, monkeypatch):
    saved(tmp_path / "one.pth", published.stage1())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seed_dist.convert.to_ours.save_carried", full)
    refused(convert, ["one.pth", "ours"], 8, "No space left on device")
