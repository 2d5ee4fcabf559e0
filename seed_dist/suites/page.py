"""receipt.html: every figure with its interval, chance and control, curves, and examples with their pictures."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from seed_dist.errors import DataError
from seed_dist.page.charts import Series, behind, lines
from seed_dist.page.document import head
from seed_dist.page.markup import Html, table, tag
from seed_dist.page.pictures import missing_picture, picture
from seed_dist.suites.receipt import Scored
from seed_dist.suites.suite import Record
from seed_dist.testsets.example import Example

_SHOWN = 4  # of the best, the worst and any
_LONGEST = 300  # characters of a field
_SERIES = re.compile(r"^(.*)\.\D*(\d+)$")  # figures that differ in a last number only are points of one curve
_POINTS = 3


@runtime_checkable
class ShowsMore(Protocol):
    """A suite with something of its own to show, below its figures."""

    def section(self, records: Sequence[Record], examples: Sequence[Example]) -> Html: ...


def render(receipt: dict[str, Any], scored: Sequence[Scored]) -> str:
    """One file with its pictures inside: no script, nothing from the network."""
    names = [f"{one.entry['suite']} on {one.entry['set']['name']} {one.entry['set']['split']}" for one in scored]
    links = [tag("li", tag("a", name, href=f"#m{number}")) for number, name in enumerate(names)]
    header = tag(
        "header",
        tag("p", f"seed-dist · {receipt['provenance']['started']}", class_="kicker"),
        tag("h1", "Receipt of an evaluation"),
        tag("p", _about(receipt), class_="lead"),
        tag("nav", tag("ul", links), aria_label="Sections"),
    )
    sections = [_section(number, name, one) for number, (name, one) in enumerate(zip(names, scored, strict=True))]
    gaps = [tag("li", f"{gap['suite']} on {gap['data']}: {gap['why']}") for gap in receipt["not_measured"]]
    missing = tag("section", tag("h2", "Not measured"), tag("ul", gaps)) if gaps else None
    footer = tag("footer", "Every number stands in receipt.json beside this page; one line per example in records/.")
    body = tag("body", header, tag("main", missing, sections, _facts(receipt)), footer)
    return "<!doctype html>\n" + tag("html", head("Receipt of an evaluation"), body, lang="en") + "\n"


def _about(receipt: dict[str, Any]) -> str:
    drawn = receipt["bootstrap"]
    return (
        f"Each figure stands beside what chance gives, what shuffled pairs give, and an interval: {drawn['method']}, "
        f"{drawn['resamples']} resamples, seed {drawn['seed']} ({drawn['source']}). It says how far other examples of "
        "this kind would move the figure, not how another training would."
    )


def _section(number: int, name: str, one: Scored) -> Html:
    curves, single = _curves(one.entry["figures"])
    rows = [[[figure["name"], _noted(figure)], *_cells(figure)] for figure in single]
    heads = ["figure", "value", "95 %", "n", "chance", "control"]
    own = one.work.suite.section(one.records, one.work.examples) if isinstance(one.work.suite, ShowsMore) else None
    return tag(
        "section",
        tag("h2", name),
        table(heads, rows, "Figures") if rows else None,
        [_chart(title, points) for title, points in curves.items()],
        own,
        _examples(one),
        tag("h3", "What was measured"),
        table(["", ""], _listed(one.entry), "Set, protocol and models"),
        id=f"m{number}",
    )


def _noted(figure: dict[str, Any]) -> Html | None:
    return tag("small", " ", figure["note"]) if figure["note"] else None


def _cells(figure: dict[str, Any]) -> list[str]:
    interval = figure["interval"]
    between = "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    return [_short(figure["value"]), between, str(figure["n"]), _short(figure["chance"]), _short(figure["control"])]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"


def _curves(
    figures: Sequence[dict[str, Any]],
) -> tuple[dict[str, list[tuple[int, dict[str, Any]]]], list[dict[str, Any]]]:
    """Figures that are points of curves, by the curve's name, and the others."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for figure in figures:
        if match := _SERIES.match(figure["name"]):
            found.setdefault(match[1], []).append((int(match[2]), figure))
    curves = {
        name: sorted(points, key=lambda point: point[0]) for name, points in found.items() if len(points) >= _POINTS
    }
    drawn = {id(figure) for points in curves.values() for _, figure in points}
    return curves, [figure for figure in figures if id(figure) not in drawn]


def _chart(title: str, points: Sequence[tuple[int, dict[str, Any]]]) -> Html:
    series = []
    for label, key in (("value", "value"), ("shuffled", "control"), ("chance", "chance")):
        there = [(float(x), float(figure[key])) for x, figure in points if figure[key] is not None]
        if there:
            series.append(Series(label, [x for x, _ in there], [y for _, y in there]))
    number = "number at the end of the figure's name"
    return tag("div", lines(series, title, number, title.rpartition("/")[2]), behind(series, title, number))


def _examples(one: Scored) -> Html | None:
    """The best and the worst by the first figure that has a number for each example, and some drawn by chance."""
    count = len(one.work.examples)
    figure = next((f for f in one.figures if f.values is not None and len(f.values) == count), None)
    chance = random.Random(0).sample(range(count), min(_SHOWN, count))
    groups = {"Drawn by chance": chance}
    if figure is not None and figure.values is not None:
        order = np.argsort(figure.values, kind="stable")
        order = order[::-1] if figure.higher_is_better else order
        best, worst = order[:_SHOWN].tolist(), order[::-1][:_SHOWN].tolist()
        groups = {f"Best by {figure.name}": best, f"Worst by {figure.name}": worst, **groups}
    values = None if figure is None else figure.values
    blocks = []
    for title, rows in groups.items():
        cards = [
            _card(one.work.examples[row], one.records[row], None if values is None else float(values[row]))
            for row in rows
        ]
        blocks += [tag("h3", title), tag("ul", cards, class_="pictures")]
    return tag("div", *blocks)


def _card(example: Example, record: Record, value: float | None) -> Html:
    shown = [picture(Image.fromarray(array), f"{name} of {example.key}") for name, array in _pictures(record)]
    said = [*example.captions[:2], *([example.question] if example.question else []), *example.answers[:1]]
    fields = [tag("small", f"{name}: {_cut(found)}", tag("br")) for name, found in sorted(record.fields.items())]
    return tag(
        "li",
        tag(
            "figure",
            tag("div", shown_picture(example), shown, class_="pair" if shown else None),
            tag(
                "figcaption",
                tag("small", example.key if value is None else f"{example.key}: {value:.3g}"),
                [tag("span", _cut(text), class_="text") for text in said],
                fields,
            ),
        ),
    )


def shown_picture(example: Example) -> Html:
    """The picture of an example, or a frame that says why there is none."""
    if example.image is None:
        return missing_picture("no picture")
    try:
        return picture(example.image(), f"picture {example.key}")
    except DataError as error:
        return missing_picture(str(error))


def _pictures(record: Record) -> list[tuple[str, Any]]:
    """Arrays of a record that are pictures: uint8 [H, W, 3]."""
    return [(n, a) for n, a in record.arrays.items() if a.dtype == np.uint8 and a.ndim == 3 and a.shape[2] == 3]


def _listed(entry: dict[str, Any]) -> list[list[str]]:
    parts = {"set": entry["set"], "protocol": entry["protocol"], "models": entry["models"]}
    rows = [[f"{part}: {name}", _cut(value)] for part, values in parts.items() for name, value in values.items()]
    return [
        *rows,
        ["records", f"{entry['records']} (SHA-256 {entry['records_sha256']})"],
        ["seconds", str(entry["seconds"])],
    ]


def _facts(receipt: dict[str, Any]) -> Html:
    provenance = receipt["provenance"]
    rows = [
        ["command", _cut(provenance["command"])],
        ["code", str(provenance["git"]["revision"])],
        ["hardware", ", ".join(f"{name} {value}" for name, value in receipt["hardware"].items() if value is not None)],
        ["versions", ", ".join(f"{name} {value}" for name, value in provenance["versions"].items() if value)],
    ]
    return tag("section", tag("h2", "Provenance"), table(["", ""], rows, "Command, code and machine"))


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
