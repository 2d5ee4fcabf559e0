"""A study as one page without network: question, arms, table, and every seed's value drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seed_dist.eval.page.charts import Series, lines
from seed_dist.eval.page.document import head
from seed_dist.eval.page.markup import Html, table, tag
from seed_dist.eval.studies.definitions import Figure, Study, study_of
from seed_dist.eval.studies.spread import Spread, measured, seeds_in_words
from seed_dist.eval.studies.table import APART, rows
from seed_dist.eval.targets import lookup

_CURVES = {
    "i2t": ("picture finds caption", "R@1"),
    "cosine_centered": ("causal embeddings rebuilt", "centred cosine"),
    "generation_cosine": ("generation embedding", "cosine"),
}


def render(result: Mapping[str, Any]) -> str:
    """STUDY.html."""
    study = study_of(result["study"])
    arms = [tag("li", tag("strong", arm.name), f": {arm.meaning}") for arm in study.arms if arm.name in result["arms"]]
    top, *below = rows(study, result)
    explained = (
        f"Mean ± standard deviation over {seeds_in_words(result['seeds'])}, measured on {result['samples']} images of "
        f"the split “{result['split']}”. {APART}: all seeds lie on one side of all seeds of the first arm; with three "
        "each, chance does that in 1 of 10 rows. Control: the same with captions or pictures exchanged."
    )
    numbers = tag("section", tag("h2", "Numbers"), tag("p", explained), table(top, below, study.question), id="numbers")
    drawn = tag("section", tag("h2", "Seed by seed"), tag("div", _charts(study, result), class_="charts"), id="charts")
    kicker = tag("p", f"Study “{study.name}” · {result['machine']}", class_="kicker")
    header = tag("header", kicker, tag("h1", study.question), tag("ul", arms))
    footer = tag("footer", f"Every number on this page stands in {study.name}.json beside it.")
    page = tag(
        "html", head(f"SEED study: {study.name}"), tag("body", header, tag("main", numbers, drawn), footer), lang="en"
    )
    return f"<!doctype html>\n{page}\n"


def _charts(study: Study, result: Mapping[str, Any]) -> list[Html]:
    curves = [_curve(result, name, *words) for name, words in _CURVES.items() if _has_curve(result)]
    return curves or [_chart(figure, spreads, result) for figure, spreads in measured(study, result)]


def _chart(figure: Figure, spreads: Mapping[str, Spread], result: Mapping[str, Any]) -> Html:
    series = [Series(arm, range(1, len(one.values) + 1), one.values) for arm, one in spreads.items()]
    return lines(series, figure.name, "seed, in order", "value", ())


def _has_curve(result: Mapping[str, Any]) -> bool:
    return any("prefix" in numbers for seeds in result["arms"].values() for numbers in seeds.values())


def _curve(result: Mapping[str, Any], name: str, title: str, axis: str) -> Html:
    """Means over seeds against the number of codes kept."""
    series = []
    for arm, seeds in result["arms"].items():
        kept = sorted(int(k) for k in next(iter(seeds.values()))["prefix"])
        means = [sum(lookup(one, f"prefix.{k}.{name}") or 0.0 for one in seeds.values()) / len(seeds) for k in kept]
        series.append(Series(arm, kept, means))
    return lines(series, f"First k codes: {title}", "codes kept", axis)
