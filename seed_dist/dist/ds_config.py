"""DeepSpeed's configuration: engine knobs from `ds_configs/*.json`, batch sizes and clipping from the recipe.

One number has one home. The JSON files hold nothing that changes what is trained, so that the same recipe gives the
same model under each of them up to rounding.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.errors import ConfigError

Precision = Literal["fp32", "fp16", "bf16"]
Capability = tuple[int, int]  # CUDA compute capability, for example (7, 0) for V100

DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"
_FILES: dict[Precision, str] = {
    "fp32": "zero2_fp32_cpu.json",
    "fp16": "zero2_fp16_v100.json",
    "bf16": "zero2_bf16.json",
}
_FROM_RECIPE = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
)


def resolve_precision(requested: str, capability: Capability | None) -> Precision:
    """The precision for a device; `capability` is None on a CPU.

    `auto`: fp32 on CPU, bf16 from compute capability 8.0 (A100) on, fp16 from 7.0 (V100, which has no bf16 whatever
    torch.cuda.is_bf16_supported() says), fp32 below. Raises ConfigError for what the device cannot do.
    """
    if requested == "auto":
        if capability is None:
            return "fp32"
        return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    if requested == "bf16" and capability is not None and capability < (8, 0):
        raise ConfigError(
            [
                f"engine.precision is bf16, but this GPU has compute capability {capability[0]}.{capability[1]} and "
                "bf16 needs 8.0 (A100) or newer; use fp16 or auto"
            ]
        )
    if requested == "fp16" and capability is None:
        raise ConfigError(["engine.precision is fp16, but there is no GPU here; use fp32 or auto"])
    assert requested in _FILES, requested
    return requested


def fitted_training(section: str, training: TrainConfig, size: int) -> TrainConfig:
    """The training for so many ranks: with more, smaller micro-batches where `max_rank_batch` asks for it.

    Raises ConfigError, with values that would work, when a rank would get no sample or too many.
    """
    micro_batches = [n for n in _multiples(training) if -(-n // size) <= (training.max_rank_batch or n)]
    if micro_batches and micro_batches[0] >= size:
        return dataclasses.replace(training, accumulation=training.global_batch // micro_batches[0])
    raise ConfigError(
        [
            f"{size} ranks cannot share {section}.global_batch {training.global_batch} (accumulation "
            f"{training.accumulation}, max_rank_batch {training.max_rank_batch}): each needs 1 sample of every "
            f"micro-batch at least and max_rank_batch at most. Start at most {training.micro_batch} ranks, or change "
            "max_rank_batch"
        ]
    )


def _multiples(training: TrainConfig) -> list[int]:
    """Sizes that a micro-batch may have, largest first: those that divide the recipe's."""
    return [n for n in range(training.micro_batch, 0, -1) if training.micro_batch % n == 0]


def load_ds_config(engine: EngineConfig, training: TrainConfig, precision: Precision, size: int) -> dict[str, Any]:
    """The complete dictionary for `deepspeed.initialize`. Raises ConfigError when file, recipe and device disagree."""
    path = _find(engine.deepspeed, precision)
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError([f"engine.deepspeed: {path} cannot be read as JSON: {error}"]) from error
    problems = [f"{path}: {key} belongs in the recipe; remove it here" for key in _FROM_RECIPE if key in config]
    if config.get("zero_optimization", {}).get("stage") != 2:
        problems.append(f"{path}: zero_optimization.stage must be 2")
    if _precision_of(config) != precision:
        problems.append(
            f"{path} is for {_precision_of(config)}, but engine.precision resolved to {precision} on this device; "
            f"use {_FILES[precision]} or auto"
        )
    if problems:
        raise ConfigError(problems)
    widest = -(-training.micro_batch // size)
    return config | {
        "train_batch_size": widest * training.accumulation * size,  # only has to fit; the loop counts the samples
        "train_micro_batch_size_per_gpu": widest,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_clipping": training.clip_norm,
    }


def _find(reference: str, precision: Precision) -> Path:
    if reference == "auto":
        return DS_CONFIGS / _FILES[precision]
    for path in (DS_CONFIGS / reference, Path(reference)):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.name for path in DS_CONFIGS.glob("*.json")))
    raise ConfigError([f"engine.deepspeed is {reference!r}, which is neither a file nor one of: auto, {names}"])


def _precision_of(config: dict[str, Any]) -> Precision:
    for name in ("fp16", "bf16"):
        if config.get(name, {}).get("enabled"):
            return name
    return "fp32"
