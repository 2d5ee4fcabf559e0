"""The recipes of the published sizes: every value is written down with its source, and is the specification's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from seed_dist.assets import resolve
from seed_dist.assets.reference import hub_reference
from seed_dist.config import RECIPES, STAGES, Recipe, load_recipe
from seed_dist.errors import ConfigError
from seed_dist.train.schedule import learning_rate

NAMES = ("seed_v1", "seed_v2")
GPUS = 64
EPOCH = 5000  # steps, a constant in the published code

# What the published code and papers say, for both versions.
BOTH = {
    "seed": 42,
    "qformer": {
        "queries": 32, "width": 768, "layers": 12, "heads": 12, "mlp_width": 3072, "cross_every": 2, "dropout": 0.1,
        "vision_width": 1408, "projection_width": 256, "max_text_tokens": 32, "text_positions": 512,
        "vocabulary_size": 30522 + 1, "causal": True, "temperature": 0.07, "label_smoothing": 0.1,
        "gather_with_gradient": False, "exchanged_negatives": False,
    },
    "codebook": {
        "size": 8192, "width": 32, "commitment_weight": 1.0, "codebook_weight": 0.25, "quantizer_loss_weight": 5.0,
        "reconstruction_loss_weight": 2.0, "generation_loss_weight": 0.5, "entropy_loss_weight": 0.0,
        "distance": "euclidean", "whiten_init": False, "kmeans_init": False, "revive_after_steps": 0,
        "weight_decay_on_codes": True, "decoder_layers": 4, "decoder_heads": 12, "head": "reverse_qformer",
        "head_layers": 4,
    },
    "lora": {
        "rank": 16, "alpha": 32, "dropout": 0.05, "caption_first_share": 0.5, "packing": False,
        "gradient_checkpointing": True, "rows_from_codebook": False,
    },
    "causal_qformer_training": {
        "steps": 10 * EPOCH, "global_batch": 64 * GPUS, "accumulation": 1, "lr": 3e-5, "min_lr": 3e-6,
        "warmup_start_lr": 3e-7, "warmup_steps": 2000, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999,
        "eps": 1e-8, "clip_norm": 0.0,
    },
    "codebook_training": {
        "steps": 500 * EPOCH, "global_batch": 256 * GPUS, "accumulation": 1, "lr": 1e-4, "min_lr": 1e-5,
        "warmup_start_lr": 1e-6, "warmup_steps": 2000, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999,
        "eps": 1e-8, "clip_norm": 0.0,
    },
    "lora_training": {
        "steps": 30000, "accumulation": 4, "lr": 1.5e-4, "min_lr": 7.5e-6, "warmup_steps": 900, "weight_decay": 0.05,
        "beta1": 0.9, "beta2": 0.95, "eps": 1e-5, "clip_norm": 1.0,
    },
    "engine": {"precision": "auto"},
}  # fmt: skip
# Where the versions differ: rows per GPU and length are those of the data set that stage 3 is made for.
OWN: dict[str, dict[str, Any]] = {
    "seed_v1": {
        "codebook": {"head_queries": 77, "generation_width": 768, "generation_target": "text_features"},
        "lora": {
            "max_tokens": 200, "image_embedding": "codebook",
            "target_modules": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        },
        "lora_training": {"global_batch": 116 * GPUS * 4},
    },
    "seed_v2": {
        "codebook": {"head_queries": 1, "generation_width": 1024, "generation_target": "image_embedding"},
        "lora": {
            "max_tokens": 140, "image_embedding": "rows",
            "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        },
        "lora_training": {"global_batch": 164 * GPUS * 4},
    },
}  # fmt: skip


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested sections as `section.option`."""
    leaves = {}
    for name, value in values.items():
        if isinstance(value, dict):
            leaves |= {f"{name}.{option}": leaf for option, leaf in flat(value).items()}
        else:
            leaves[name] = value
    return leaves


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_published_ones(name: str) -> None:
    found = flat(load_recipe(name).as_dict())
    expected = flat(BOTH) | flat(OWN[name])
    wrong = {option: (found[option], value) for option, value in expected.items() if found[option] != value}
    assert wrong == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_complete_and_every_number_names_its_source(name: str) -> None:
    """Nothing is left to defaults, which may change; each value has a tag that the header explains."""
    text = (RECIPES / f"{name}.yaml").read_text()
    written = set(flat(yaml.safe_load(text)))
    assert set(flat(load_recipe(name).as_dict())) - written == set()
    header, _, body = text.partition("\nname:")
    assert "Hours:" in header
    explained = {"D", "ours", *re.findall(r"\[(P1|P2|C|CI|H|L|B)\]  ", header)}
    above = ""
    for line in body.splitlines()[1:]:
        if re.match(r" *#", line):
            above += line
            continue
        tags = re.findall(r"\[([^]]*)\]", (above + line).partition("#")[2])
        if not line.endswith(":") and not re.match(r"\w+: #", line):
            sources = {part.split()[0] for tag in tags for part in tag.split(", ")}
            assert sources, f"no source: {line}"
            assert {s for s in sources if not re.fullmatch(r"I#\d+|\d.*", s)} <= explained, line
        above = ""


@pytest.mark.parametrize("name", NAMES)
def test_backbones_that_are_not_there_are_named_with_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_DIST_ASSETS", str(tmp_path))
    backbones = load_recipe(name).as_dict()["backbones"]
    assert sum(hub_reference(reference) is not None for reference in backbones.values()) >= 3
    for option, reference in backbones.items():
        command = f"python -m seed_dist.assets fetch {reference}"
        action = command if hub_reference(reference) else f"is no folder.*--set backbones.{option}=PATH"
        with pytest.raises(ConfigError, match=rf"'{reference}'.*{action}.*backbones.{option} is needed"):
            resolve(reference, option)


def ends(recipe: Recipe, stage: Any) -> tuple[float, float, float]:
    """Learning rate of the first step, the last of the warm-up and the last of all."""
    training = recipe.training(stage)
    steps = (0, training.warmup_steps - 1, training.steps - 1)
    return tuple(learning_rate(training, step) for step in steps)  # type: ignore[return-value]


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates_go_from_warm_up_over_peak_to_floor(name: str) -> None:
    expected = ((3e-7, 3e-5, 3e-6), (1e-6, 1e-4, 1e-5), (0.0, 1.5e-4, 7.5e-6))
    for stage, (start, peak, floor) in zip(STAGES, expected, strict=True):
        first, top, last = ends(load_recipe(name), stage)
        assert first == pytest.approx(start, abs=1e-3 * peak + peak / 900)
        assert first > start
        assert top == pytest.approx(peak)
        assert last == pytest.approx(floor, rel=1e-4)


def test_a_permanent_checkpoint_is_one_that_is_saved() -> None:
    with pytest.raises(ConfigError, match=r"permanent_every 1500 must be a multiple of checkpoint_every 1000"):
        load_recipe("seed_v2", ["codebook_training.permanent_every=1500"])
    assert load_recipe("seed_v2", ["codebook_training.permanent_every=3000"]).codebook_training.permanent_every == 3000
