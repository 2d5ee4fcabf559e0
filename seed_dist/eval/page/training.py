"""How it was made: loss curves of the stages, times, sizes, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seed_dist.page.charts import Series, lines
from seed_dist.page.markup import Html, table, tag
from seed_dist.status.page import ribbon_of
from seed_dist.status.reference import Comparison

_NAMES = {
    "causal_qformer": "1. Causal Q-Former: contrastive loss",
    "codebook": "2. Codebook: total loss",
    "lora": "3. Language model: loss per token",
}
_NOT_FIGURES = frozenset({"step", "time_s", "validation_samples", "seconds"})


def curves(journals: Mapping[str, Sequence[dict[str, Any]]], references: Mapping[str, Comparison]) -> Html | None:
    """Training and validation loss against the step, for each stage that has a journal, over the reference runs'."""
    charts = [
        chart
        for stage, records in journals.items()
        if records
        for chart in _charts(stage, records, references.get(stage, Comparison(0)))
    ]
    if not charts:
        return None
    said = [
        tag("li", tag("strong", f"{_NAMES.get(stage, stage).partition(':')[0]}: "), reference.words())
        for stage, reference in references.items()
    ]
    beside = [tag("h3", "Beside reference runs of the recipe"), tag("ul", said)] if said else None
    return tag("section", tag("h2", "How it learned"), tag("div", charts, class_="charts"), beside, id="training")


def _charts(stage: str, records: Sequence[dict[str, Any]], reference: Comparison) -> list[Html]:
    """The losses, and beside them the figures of validation that are shares or cosines."""
    validation = _series(records, "validation")
    losses = [one for one in validation if "loss" in one.label]
    others = [one for one in validation if "loss" not in one.label and not one.label.startswith("codes_near")]
    shares = [one for one in others if -1 <= min(one.ys) <= max(one.ys) <= 1]
    training = [one for one in _series(records, "step") if one.label == "loss"]
    shown = [replace(one, label="training") for one in training] + [
        replace(one, label=f"validation, {_words(one.label)}") for one in losses
    ]
    charts = [lines(shown, _NAMES.get(stage, stage), "step", "loss", ribbon=ribbon_of("loss", reference))]
    if shares:
        named = [replace(one, label=_words(one.label)) for one in shares]
        charts.append(
            lines(
                named,
                f"{_NAMES.get(stage, stage).partition(':')[0]}: on validation images",
                "step",
                "share or cosine",
                (0.0, 1.0),
            )
        )
    return charts


def _series(records: Sequence[dict[str, Any]], event: str) -> list[Series]:
    """One series per figure that this kind of record carries."""
    points: dict[str, list[tuple[float, float]]] = {}
    for record in (record for record in records if record["event"] == event):
        for name, value in record.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in _NOT_FIGURES:
                points.setdefault(name, []).append((record["step"], value))
    return [Series(name, [x for x, _ in pairs], [y for _, y in pairs]) for name, pairs in points.items()]


def _words(name: str) -> str:
    return name.replace("i2t_r1", "image→text R@1").replace("t2i_r1", "text→image R@1").replace("_", " ")


def facts(numbers: dict[str, Any]) -> Html:
    """Times, sizes and where everything came from."""
    seconds, sizes = numbers.get("seconds") or {}, numbers.get("sizes") or {}
    made = []
    if seconds:
        peaks = numbers.get("peak_memory_bytes") or {}
        rows = [[name, _duration(value), _size_or_dash(peaks.get(name))] for name, value in seconds.items()]
        together = ["together", _duration(sum(seconds.values())), _size_or_dash(max(peaks.values(), default=None))]
        made.append(table(["step", "time", "peak memory"], [*rows, together], "Time and memory of each step"))
    if sizes.get("bytes"):
        made.append(
            table(["folder", "size"], [[name, _size(value)] for name, value in sizes["bytes"].items()], "On disk")
        )
    if sizes.get("parameters"):
        rows = [[name, f"{value:,}"] for name, value in sizes["parameters"].items()]
        made.append(table(["model", "parameters"], rows, "Models"))
    origins = [
        tag("tr", tag("th", key, scope="row"), tag("td", value))
        for key, value in _flat(numbers.get("provenance") or {})
    ]
    origin = tag(
        "details",
        tag("summary", "Provenance: versions, seeds, fingerprints"),
        tag("table", tag("tbody", origins), class_="facts"),
    )
    return tag("section", tag("h2", "Times, sizes, provenance"), tag("div", made, class_="charts"), origin, id="facts")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows.extend(_flat(value, f"{name} / ") if isinstance(value, Mapping) else [(name, str(value))])
    return rows


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60:02d} s"


def _size_or_dash(size_bytes: float | None) -> str:
    return "-" if size_bytes is None else _size(size_bytes)


def _size(size_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError("the last unit returns")
