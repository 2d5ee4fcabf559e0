"""The options of suites: all problems at once, and what launchers do to them."""

import argparse
from itertools import pairwise
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from seed_dist.errors import ConfigError
from seed_dist.suites.options import add_suite_options, request_of
from seed_dist.suites.selection import measured_examples
from seed_dist.testsets import example


def asked(*words):
    parser = argparse.ArgumentParser()
    for option in ("--suite", "--work", "--out"):
        parser.add_argument(option, type=str if option == "--suite" else Path)
    add_suite_options(parser)
    return request_of(parser.parse_args([*words]))


def test_torchrun_lets_every_option_through(tmp_path):
    """It looks for its own options among those of the command, too: `--run` it would refuse as ambiguous."""
    words = ["--work", str(tmp_path), "--suite", "codes,retrieval", "--data", "workspace:test", "--seed", "3"]
    words += ["--tokenizer", str(tmp_path), "--llm", str(tmp_path), "--judge", "clip=a", "--peer", "b", "--limit", "9"]
    words += ["--protocol", "crop", "--resamples", "50", "--chunk", "8", "--batch-size", "2", "--painted", "0"]
    passed = get_args_parser().parse_args(["--nproc-per-node=2", "-m", "seed_dist.eval", *words])
    assert passed.training_script_args == words
    request = asked(*words)
    assert (request.places.run, request.out, request.suites) == (tmp_path, tmp_path / "suites", ("codes", "retrieval"))
    assert (request.options.seed, request.drawn.seed, request.limit, request.chunk, request.batch_size) == (
        3,
        3,
        9,
        8,
        2,
    )
    assert asked("--suite", "codes", "--run", str(tmp_path), "--data", "workspace:test").places.run == tmp_path


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        asked(
            "--suite", "codes,beauty", "--llm", str(tmp_path / "no"), "--limit", "0", "--peer", "a/b", "--peer", "c/b",
            "--painted", "-1",
        )  # fmt: skip
    told = str(error.value)
    for part in ("'beauty'", "neither --run", "--llm", "--data", "--limit is 0", "--peer", "--out", "--painted"):
        assert part in told, part


def test_only_paintings_of_a_workspace_are_fewer_and_say_so():
    of_workspace, public = (example.TestSet(name, "test", list(range(1000)), {}) for name in ("workspace", "nocaps"))
    for suite in ("retrieval", "codes", "caption", "vqa"):
        assert measured_examples(suite, of_workspace, None, 5) == (list(range(1000)), "")
    for suite in ("reconstruction", "generation"):
        assert measured_examples(suite, public, None, None) == (list(range(1000)), "")
        assert measured_examples(suite, of_workspace, None, 0) == (list(range(1000)), "")
        found, which = measured_examples(suite, of_workspace, None, None)
        assert (len(found), found[0], found[-1], which) == (256, 0, 996, "256 of 1000, evenly spaced")
        assert {b - a for a, b in pairwise(found)} == {3, 4}
        assert measured_examples(suite, public, None, 4) == ([0, 250, 500, 750], "4 of 1000, evenly spaced")
        assert measured_examples(suite, public, 8, 4) == ([0, 2, 4, 6], "4 of the first 8 of 1000, evenly spaced")
        assert measured_examples(suite, of_workspace, 9, None) == (list(range(9)), "the first 9 of 1000")
