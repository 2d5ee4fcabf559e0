"""data_prep/encode.py as users run it: options and exit codes."""

import importlib.util
import sys

import pytest

from seed_dist.cli import run_command
from seed_dist.data.reader import FeatureShards
from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import fill
from tests.unit.encode.test_encode_audit import flip_a_bit


@pytest.fixture
def encode(root, monkeypatch):
    """Runs the command in this process; the value is its exit code."""
    spec = importlib.util.spec_from_file_location("encode_command", root / "data_prep" / "encode.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["encode.py", *map(str, arguments)])
        try:
            return run_command(module.main)
        except SystemExit as leaving:  # argparse
            return leaving.code

    return run


def test_several_targets_and_splits(encode, tmp_path, capsys):
    for split, count in (("train", 5), ("val", 3)):
        shard_source(fill(tmp_path / split, count), tmp_path / "images" / split, ShardOptions(workers=1))
    arguments = ("--work", tmp_path, "--target", "patches", "image_embedding", "--split", "train", "val")
    assert encode(*arguments) == 0
    first = capsys.readouterr()
    assert len(first.out.splitlines()) == 4
    assert "features/patches/train is finished: 5 x float16" in first.out
    assert "samples/s" in first.err
    assert encode(*arguments) == 0
    assert capsys.readouterr().out == first.out
    assert len(FeatureShards(tmp_path / "features" / "image_embedding" / "val")) == 3


def test_status_and_audit_of_what_was_made(encode, tmp_path, capsys):
    shard_source(fill(tmp_path / "train", 5), tmp_path / "images" / "train", ShardOptions(workers=1))
    arguments = ("--work", tmp_path, "--target", "patches", "--split", "train", "--dtype", "int8")
    assert encode(*arguments) == 0
    assert encode("--work", tmp_path, "--status") == 0
    assert "patches/train: 100.0%, 5 of 5 samples; shards: 1 done" in capsys.readouterr().out
    assert encode(*arguments, "--audit", 100) == 0
    assert "5 samples encoded again, 5 equal to the last bit" in capsys.readouterr().out
    flip_a_bit(tmp_path / "features" / "patches" / "train", 3)
    assert encode(*arguments, "--audit", 100) == 3
    assert "1 samples: 000000003 (off by" in capsys.readouterr().err
    assert encode(*arguments, "--audit", 100, "--audit-tolerance", 0.1) == 0
    assert encode(*arguments[:-1], "float16") == 4  # what is there is int8
    assert "dtype of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "patches", "--split", "val"], 3, "images/val does not exist"),
        (["--target", "causal", "--split", "val"], 3, "the stage causal_qformer is not finished"),
        (["--target", "patchs", "--split", "val"], 2, "invalid choice: 'patchs'"),
        (["--target", "patches"], 2, "--split is missing"),
        (["--split", "val"], 2, "--target is missing"),
        (["--target", "patches", "--split", "val", "--dtype", "int4"], 2, "choose from"),
        (["--target", "codes", "--split", "val", "--dtype", "int8"], 2, "--dtype int8 is for patches and causal"),
        (["--target", "patches", "--split", "val", "--views", "0"], 2, "--views is 0; at least 1"),
        (["--target", "patches", "--split", "val", "--audit", "3"], 3, "images/val does not exist"),
        (["--status"], 3, "holds no features that are begun or finished"),
        (["--target", "patches", "--split", "val", "--recipe", "glyph"], 2, "recipe 'glyph' is unknown; choose one of"),
        (["--target", "patches", "--split", "val", "--set", "qformer.querys=3"], 2, "option qformer.querys is unknown"),
        (["--target", "patches", "--split", "val", "--batch-size", "0"], 2, "--batch-size is 0; at least 1"),
        (
            ["--target", "patches", "--split", "val", "--set", "backbones.image_encoder=embedded:clop"],
            2,
            "backbone 'embedded:clop' does not ship",
        ),
    ],
)
def test_bad_input_is_one_short_message(encode, tmp_path, capsys, arguments, code, message):
    assert encode("--work", tmp_path, *arguments) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "features").exists()
