"""data_prep/encode.py as users run it: options and exit codes."""

import importlib.util
import sys

import pytest

from seed_dist.cli import run_command
from seed_dist.data.reader import FeatureShards
from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import fill


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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "patches", "--split", "val"], 3, "images/val does not exist"),
        (["--target", "causal", "--split", "val"], 3, "the stage causal_qformer is not finished"),
        (["--target", "patchs", "--split", "val"], 2, "invalid choice: 'patchs'"),
        (["--target", "patches"], 2, "--split"),
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
