"""Every figure with what it carries: interval, n, chance, data, and below it protocol, models and seed."""

from __future__ import annotations

from typing import Any

from seed_dist.eval.model_card import cells
from seed_dist.page.markup import Html, table, tag


def section(numbers: dict[str, Any]) -> Html | None:
    figures, bases, drawn = (numbers.get(name) or {} for name in ("figures", "bases", "bootstrap"))
    if not figures:
        return None
    about = (
        f"Intervals: {drawn['method']}, {drawn['resamples']} resamples, seed {drawn['seed']} ({drawn['source']}). They "
        "say how far other pictures of this kind would move a figure, not how another training would."
    )
    rows = [[path, *cells(figure)] for path, figure in figures.items()]
    heads = ["in report.json", "value", "95 %", "n", "knowing nothing", "data"]
    rests = [[name, basis["protocol"], _models(basis), str(basis["seed"])] for name, basis in bases.items()]
    made = tag(
        "details",
        tag("summary", f"{len(figures)} figures, with intervals and what they rest on"),
        table(heads, rows, "Figures"),
        table(["figures", "protocol", "models", "seed"], rests, "What they rest on"),
    )
    return tag("section", tag("h2", "Every figure"), tag("p", about), made, id="figures")


def _models(basis: dict[str, Any]) -> str:
    """Run fingerprints and SHA-256, twelve digits of each; all of them stand in report.json."""
    ours = [f"{stage} {_short(run)}" for stage, run in basis["stages"].items()]
    frozen = [f"{one['reference']} {_short(one['sha256'])}" for one in basis["frozen"].values()]
    return ", ".join([*ours, *frozen])


def _short(digest: str | None) -> str:
    return "not known" if digest is None else digest[:12]
