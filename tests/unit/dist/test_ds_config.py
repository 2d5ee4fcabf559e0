"""Engine configurations: precision by device, one home for every number, errors that say what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.dist.ds_config import DS_CONFIGS, Precision, fitted_training, load_ds_config, resolve_precision
from seed_dist.errors import ConfigError

TRAINING = TrainConfig(steps=10, global_batch=96, accumulation=3, clip_norm=0.7)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "fp32"), ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_precision_follows_the_compute_capability(capability: tuple[int, int] | None, expected: str) -> None:
    assert resolve_precision("auto", capability) == expected


def test_what_a_device_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bf16.*7\.0.*fp16 or auto"):
        resolve_precision("bf16", (7, 0))
    with pytest.raises(ConfigError, match="no GPU"):
        resolve_precision("fp16", None)
    assert resolve_precision("bf16", None) == "bf16"
    assert resolve_precision("fp32", (8, 0)) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_file_gets_batch_sizes_and_clipping_from_the_recipe(precision: Precision) -> None:
    config = load_ds_config(EngineConfig(), TRAINING, precision, size=8)
    assert config["train_batch_size"] == 96
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"]["stage"] == 2
    assert config.get("fp16", {}).get("enabled", False) == (precision == "fp16")
    assert config.get("bf16", {}).get("enabled", False) == (precision == "bf16")


def test_all_committed_files_are_reached() -> None:
    assert sorted(path.name for path in DS_CONFIGS.glob("*.json")) == [
        "zero2_bf16.json",
        "zero2_fp16_v100.json",
        "zero2_fp32_cpu.json",
    ]


def test_a_file_that_disagrees_with_recipe_or_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, "gradient_clipping": 1, "bf16": {"enabled": True}}))
    with pytest.raises(ConfigError) as caught:
        load_ds_config(EngineConfig(deepspeed=str(path)), TRAINING, "fp32", 1)
    assert len(caught.value.problems) == 3
    for part in ("gradient_clipping belongs in the recipe", "stage must be 2", "is for bf16"):
        assert part in str(caught.value)


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"zero2_bf16\.json"):
        load_ds_config(EngineConfig(deepspeed="nowhere.json"), TRAINING, "fp32", 1)
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        load_ds_config(EngineConfig(deepspeed=str(path)), TRAINING, "fp32", 1)


@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_any_number_of_ranks_can_share_a_micro_batch(size: int) -> None:
    assert fitted_training("lora_training", TRAINING, size) == TRAINING


def test_fewer_ranks_get_more_and_smaller_micro_batches_where_their_memory_is_limited() -> None:
    limited = dataclasses.replace(TRAINING, max_rank_batch=6)
    fitted = [fitted_training("lora_training", limited, size) for size in (8, 7, 4, 3, 1)]
    assert [training.accumulation for training in fitted] == [3, 3, 6, 6, 24]
    assert all(-(-training.micro_batch // size) <= 6 for training, size in zip(fitted, (8, 7, 4, 3, 1), strict=True))


def test_too_many_ranks_are_told_how_many_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        fitted_training("lora_training", TRAINING, 33)
    for part in ("33 ranks", "lora_training.global_batch 96", "at most 32 ranks"):
        assert part in str(caught.value)
