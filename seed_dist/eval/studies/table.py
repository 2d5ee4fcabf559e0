"""A study's table in Markdown: what docs/findings.md shows, word for word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seed_dist.eval.studies.definitions import Figure, Study
from seed_dist.eval.studies.spread import Spread, measured, reference

APART = "*"


def rows(study: Study, result: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows: figure, chance, control, then mean and standard deviation of each arm over the seeds.

    A value that is marked is apart from the first arm's: no seed of one lies among the seeds of the other.
    """
    arms = list(result["arms"])
    head = ["figure", "chance", "control", *arms]
    return [head, *(_row(result, figure, spreads, arms) for figure, spreads in measured(study, result))]


def _row(result: Mapping[str, Any], figure: Figure, spreads: Mapping[str, Spread], arms: list[str]) -> list[str]:
    beside = [_number(reference(result, path), figure.digits) for path in (figure.chance, figure.control)]
    first = spreads.get(arms[0])
    return [figure.name, *beside, *(_cell(spreads.get(arm), first, figure.digits) for arm in arms)]


def _cell(found: Spread | None, first: Spread | None, digits: int) -> str:
    if found is None:
        return ""
    spread = f" ± {_number(found.deviation, digits)}" if len(found.values) > 1 else ""
    mark = f" {APART}" if first is not None and found.is_apart_from(first) else ""
    return f"{_number(found.mean, digits)}{spread}{mark}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def markdown(study: Study, result: Mapping[str, Any]) -> str:
    """The table, ready to stand in a document."""
    head, *body = rows(study, result)
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
