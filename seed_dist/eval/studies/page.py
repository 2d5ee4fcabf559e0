"""A study as one page without network: question, arms, table, and every seed's value drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seed_dist.eval.studies.definitions import Figure, Study, study_of
from seed_dist.eval.studies.spread import Spread, measured, seeds_in_words
from seed_dist.eval.studies.table import APART, rows
from seed_dist.page.charts import Series, lines
from seed_dist.page.document import head
from seed_dist.page.markup import Html, table, tag

_CURVES = {
    "i2t": ("picture finds caption", "R@1"),
    "generation_cosine": ("generation embedding", "cosine"),
}
_READERS = {"prefix": "by its decoder", "reader": "by a fitted reader"}


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
    numbers = [one for seeds in result["arms"].values() for one in seeds.values()]
    if all("prefix" in one for one in numbers):
        return [_curve(result, by, name) for name in _CURVES for by in _READERS]
    return [_chart(figure, spreads) for figure, spreads in measured(study, result)]


def _chart(figure: Figure, spreads: Mapping[str, Spread]) -> Html:
    series = [Series(arm, range(1, len(one.values) + 1), one.values) for arm, one in spreads.items()]
    return lines(series, figure.name, "seed, in order", "value", ())


def _curve(result: Mapping[str, Any], by: str, name: str) -> Html:
    """Means over seeds against the number of codes kept."""
    series = []
    for arm, seeds in result["arms"].items():
        kept = sorted(int(k) for k in next(iter(seeds.values()))[by])
        means = [sum(one[by][str(k)][name] for one in seeds.values()) / len(seeds) for k in kept]
        series.append(Series(arm, kept, means))
    title, axis = _CURVES[name]
    return lines(series, f"First k codes: {title}, {_READERS[by]}", "codes kept", axis)
