"""Recipes and engine configurations: every one loads, and every option does something."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from seed_dist.config import RECIPES, STAGES, Recipe, load_recipe, recipe_from_dict, recipe_names
from seed_dist.order import SampleOrder, rank_slice
from tests.architecture.sources import ROOT, sources

DS_CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))
# Numbers that a recipe decides: two places for one number are one too many.
NOT_FOR_THE_ENGINE = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler",
    "gradient_clipping", "steps_per_print",
}  # fmt: skip


def leaf_options(section: Any = Recipe) -> set[str]:
    """Names of all options at the ends of the configuration tree."""
    types = get_type_hints(section)
    names: set[str] = set()
    for field in dataclasses.fields(section):
        kind = types[field.name]
        names |= leaf_options(kind) if dataclasses.is_dataclass(kind) else {field.name}
    return names


def test_there_are_recipes() -> None:
    assert "glyphs" in recipe_names()
    assert len(recipe_names()) == len(list(RECIPES.rglob("*.yaml")))


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_round_trips(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(json.loads(json.dumps(recipe.as_dict())), "recorded") == recipe


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
def test_recipe_fits_usual_worlds(name: str, ranks: int) -> None:
    for stage in STAGES:
        training = load_recipe(name).training(stage)
        ids = SampleOrder(100_000, 0, 300).batch(0, training.global_batch)
        parts = [rank_slice(ids, rank, ranks) for rank in range(ranks)]
        assert len({len(part) for part in parts}) == 1
        assert training.global_batch % (ranks * training.accumulation) == 0


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_says_how_it_is_run(path: Path) -> None:
    """Command and hardware stand at the top, so that a recipe is the record of an experiment."""
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Command:" in line for line in header)
    assert any("Hardware:" in line for line in header)


def test_every_option_is_used() -> None:
    """An option that no code reads is a promise that nobody keeps."""
    used = {
        node.attr
        for source in sources()
        if source.path != "seed_dist/config.py"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
    }
    options = leaf_options()
    assert len(options) > 50
    assert sorted(options - used - {"name"}) == []


def test_there_are_engine_configurations() -> None:
    assert {"zero2_fp16_v100", "zero2_bf16", "zero2_fp32_cpu"} <= {path.stem for path in DS_CONFIGS}


@pytest.mark.parametrize("path", DS_CONFIGS, ids=lambda path: path.stem)
def test_engine_configuration_has_engine_knobs_only(path: Path) -> None:
    values = json.loads(path.read_text())
    assert NOT_FOR_THE_ENGINE & values.keys() == set()
    assert values["zero_optimization"]["stage"] == 2
