"""A receipt: every figure with n, interval, chance and control, and all that it came from. JSON, for people a page.

OUT/receipt.json  receipt.html        of one or more suites on one or more sets
OUT/records/SET/SUITE/resampled.npz   each figure under the bootstrap's draws, for `--compare`
OUT/run.json  journal.jsonl           the same figures for MLflow: python -m seed_dist.sync OUT
"""

from __future__ import annotations

import io
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seed_dist.fsio import atomic_file, fingerprint, sha256_file, write_json
from seed_dist.metrics import bootstrap
from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.provenance import RUN, attempt
from seed_dist.suites.options import Bootstrap
from seed_dist.suites.run import Measurement
from seed_dist.suites.suite import Figure, Record

RECEIPT, RESAMPLED = "receipt.json", "resampled.npz"
FORMAT = 1


@dataclass(frozen=True)
class Scored:
    """What a measurement gave: `entry` of the receipt, and what the page shows."""

    work: Measurement
    records: list[Record]
    figures: list[Figure]
    entry: dict[str, Any]


def described(drawn: Bootstrap) -> dict[str, Any]:
    return {"method": bootstrap.METHOD, "source": bootstrap.SOURCE, "resamples": drawn.resamples, "seed": drawn.seed}


def score(work: Measurement, drawn: Bootstrap) -> Scored:
    """The figures of a measurement whose records are all there; keeps their resampled values beside the records."""
    records = work.all_records()
    figures = work.suite.score(records, work.examples)
    found = resampled(figures, drawn)
    buffer = io.BytesIO()
    np.savez(buffer, **found)  # type: ignore[arg-type]
    with atomic_file(work.records.folder / RESAMPLED) as file:
        file.write(buffer.getvalue())
    entry = {
        "suite": work.suite.name,
        "set": {**work.testset.card, "measured": len(work.examples), "of": len(work.testset.examples)},
        "protocol": work.suite.protocol,
        "models": work.suite.models,
        "records": "/".join(work.records.folder.parts[-3:]),
        "records_sha256": _records_sha256(work),
        "seconds": round(work.records.seconds(), 2),
        "figures": [_described(figure, found.get(figure.name)) for figure in figures],
    }
    return Scored(work, records, figures, entry)


def resampled(figures: Sequence[Figure], drawn: Bootstrap) -> dict[str, bootstrap.Floats]:
    """For each figure that has units, its values under the bootstrap's draws."""
    found: dict[str, bootstrap.Floats] = {}
    means = [(figure.name, figure.values) for figure in figures if figure.values is not None]
    for units in sorted({len(values) for _, values in means if len(values)}):
        own = [(name, values) for name, values in means if len(values) == units]
        rows = bootstrap.resampled_means([values for _, values in own], drawn.resamples, drawn.seed)
        found |= {name: row for (name, _), row in zip(own, rows, strict=True)}
    for figure in figures:
        if figure.resampled is not None and figure.n:
            found[figure.name] = bootstrap.resampled_by(figure.resampled, figure.n, drawn.resamples, drawn.seed)
    return found


def _described(figure: Figure, drawn: bootstrap.Floats | None) -> dict[str, Any]:
    between = None if drawn is None or not np.isfinite(drawn).all() else bootstrap.interval(drawn)
    return {
        "name": figure.name,
        "value": _number(figure.value),
        "n": figure.n,
        "interval": None if between is None else [_number(end) for end in between],
        "chance": _number(figure.chance),
        "control": _number(figure.control),
        "higher_is_better": figure.higher_is_better,
        "note": figure.note,
    }


def _number(value: float | None) -> float | None:
    """To 12 digits: the last ones of a sum depend on how many threads made it."""
    return float(f"{value:.12g}") if value is not None and math.isfinite(value) else None


def _records_sha256(work: Measurement) -> str:
    """16 hex digits over all files of records."""
    files = sorted(work.records.folder.glob("chunk-*"))
    return fingerprint({path.name: sha256_file(path) for path in files})


def hardware(device: torch.device, ranks: int) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cores = len(os.sched_getaffinity(0))
    return {"machine": platform.machine(), "cores": cores, "gpu": gpu, "ranks": ranks, "device": device.type}


def write(out: Path, scored: Sequence[Scored], gaps: Sequence[dict[str, str]], facts: dict[str, Any]) -> dict[str, Any]:
    """receipt.json, and the same figures as a run that `seed_dist.sync` copies to MLflow. The value is the receipt."""
    receipt = {
        "format": FORMAT,
        "measurements": [one.entry for one in scored],
        "not_measured": list(gaps),
        **facts,
        "provenance": attempt(),
    }
    write_json(out / RECEIPT, receipt)
    _write_run(out, receipt)
    return receipt


def _write_run(out: Path, receipt: dict[str, Any]) -> None:
    identity: dict[str, Any] = {"stage": "suites", **{f"bootstrap.{k}": v for k, v in receipt["bootstrap"].items()}}
    parents: dict[str, Any] = {}
    for entry in receipt["measurements"]:
        label = _label(entry)
        identity |= {f"{label}.protocol": entry["protocol"], f"{label}.models": entry["models"]}
        parents[label] = entry["set"]["fingerprint"]
    record = {
        "stage": "suites",
        "fingerprint": fingerprint([identity, parents]),
        "identity": identity,
        "parents": parents,
        "recipe": {"name": "suites"},
        **receipt["provenance"],
    }
    write_json(out / RUN, record)
    values = {}
    for entry in receipt["measurements"]:
        for figure in entry["figures"]:
            values[f"{_label(entry)}/{figure['name']}"] = figure["value"]
            if figure["interval"] is not None:
                values[f"{_label(entry)}/{figure['name']}/low"], values[f"{_label(entry)}/{figure['name']}/high"] = (
                    figure["interval"]
                )
    journal = Journal(out / JOURNAL)
    journal.write("start", 0, host=record["host"], world_size=receipt["hardware"]["ranks"])
    journal.write("validation", 0, **{name: value for name, value in values.items() if value is not None})
    journal.write("finished", 0)
    journal.close()


def _label(entry: dict[str, Any]) -> str:
    return f"{entry['suite']}.{entry['set']['name']}.{entry['set']['split']}"
