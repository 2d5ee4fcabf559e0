"""A run directory as training writes it, with any events."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from seed_dist.config import load_recipe
from seed_dist.obs.journal import Journal
from seed_dist.obs.provenance import record_run, stage_identity

STEPS = 2500  # of the recipe's codebook stage


def write_run(folder: Path, *overrides: str) -> Path:
    """run.json of a codebook stage. Options as in --set."""
    recipe = load_recipe("glyphs", [f"codebook_training.steps={STEPS}", *overrides])
    record_run(folder, recipe, stage_identity(recipe, "codebook", {"train": "aa", "val": "bb"}), world_size=2)
    return folder


def write_events(folder: Path, *events: tuple[str, int, dict[str, Any]]) -> None:
    journal = Journal(folder / "journal.jsonl")
    for event, step, values in events:
        journal.write(event, step, **values)
    journal.close()


def step(number: int, **values: Any) -> tuple[str, int, dict[str, Any]]:
    usual = {"loss": 1 / number, "lr": 1e-3, "grad_norm": 2.0, "step_s": 0.5, "data_wait_s": 0.05, "samples_per_s": 128}
    return "step", number, {**usual, "codes_used_fraction": 0.5, "codes_perplexity": 300.0, **values}


def write_many_steps(path: Path, count: int) -> None:
    """Lines as the journal writes them, a checkpoint at every thousandth; a minute's worth of fsync is left out."""
    values = step(1)[2] | {f"part_{n}": 0.123456 for n in range(10)}
    lines = [json.dumps({"event": "start", "step": 0, "time_s": 1e9, "host": "a", "world_size": 2})]
    for number in range(1, count + 1):
        lines.append(json.dumps({"event": "step", "step": number, "time_s": 1e9 + number, **values, "loss": number}))
        if number % 1000 == 0:
            lines.append(json.dumps({"event": "checkpoint", "step": number, "time_s": 1e9 + number, "seconds": 1.0}))
    path.write_text("\n".join(lines) + "\n")


def plain(facts: Any) -> dict[str, Any]:
    return dataclasses.asdict(facts)
