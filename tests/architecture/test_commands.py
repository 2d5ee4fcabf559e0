"""The chain's commands: every program and every option that the demo, the launcher and the scripts use exists."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from launchers.jobs import program_and_arguments
from seed_dist.config import load_recipe
from seed_dist.ops.chain import Chain, Step
from tests.architecture.sources import ROOT, help_of


def steps(data: Path | None) -> list[Step]:
    chain = Chain("glyphs", Path("runs/demo"), data, overrides=("seed=1",))
    return chain.steps(load_recipe("glyphs"))


@pytest.mark.parametrize("data", [None, Path("photos")], ids=["drawn scenes", "own data"])
def test_the_chain_uses_commands_and_options_that_exist(data: Path | None) -> None:
    problems = []
    for step in steps(data):
        program, arguments = program_and_arguments(step)
        if not ((ROOT / program).is_file() if program.endswith(".py") else importlib.util.find_spec(program)):
            problems.append(f"{step.name}: there is no {program}")
            continue
        unknown = [word for word in arguments if word.startswith("--") and word not in help_of(program)]
        problems += [f"{step.name}: {Path(program).name} has no option {word}" for word in unknown]
    assert problems == []


def test_step_names_are_the_run_directories_and_are_unique() -> None:
    names = [step.name for step in steps(None)]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("train_")] == [
        "train_causal_qformer",
        "train_codebook",
        "train_lora",
    ]


def test_all_splits_of_a_mixture_are_encoded() -> None:
    recipe = load_recipe("glyphs", ["data.mixture=[{split: train}, {split: cc3m}]"])
    encoding = [step.shown() for step in Chain("glyphs", Path("runs/demo")).steps(recipe) if "encode" in step.name]
    assert len(encoding) == 3
    assert all(line.count("--split") == 5 and line.endswith("--split cc3m") for line in encoding)


def test_a_step_is_shown_as_it_would_be_typed_here() -> None:
    shown = [step.shown() for step in steps(None)]
    assert all(line.startswith("python ") for line in shown)
    assert not any(str(ROOT) in line for line in shown)
