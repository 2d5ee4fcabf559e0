"""RUN/live.html: the facts and the curves of one run on one page without script or network."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from seed_dist.fsio import atomic_file
from seed_dist.obs.progress import format_seconds
from seed_dist.page.charts import STYLES, Ribbon, Series, behind, lines
from seed_dist.page.document import head
from seed_dist.page.markup import Html, table, tag
from seed_dist.status import text
from seed_dist.status.facts import Facts, RunReader
from seed_dist.status.history import Curve
from seed_dist.status.reference import Comparison

PAGE = "live.html"
RELOAD_S = 60
# Title, label of the y axis, what it must cover, and the curves that it shows.
_CHARTS: tuple[tuple[str, str, tuple[float, ...], tuple[str, ...]], ...] = (
    ("Learning rate", "learning rate", (0.0,), ("lr",)),
    ("Gradient norm", "norm", (0.0,), ("grad_norm",)),
    ("Loss scale", "loss scale", (0.0,), ("loss_scale",)),
    ("Share of the codes in use", "share", (0.0, 1.0), ("codes_used_fraction", "validation/codes_used_fraction")),
    ("Perplexity of the codes", "codes", (0.0,), ("codes_perplexity", "validation/codes_perplexity")),
    ("Steps since a code was used last", "steps", (0.0,), ("codes_age_median", "codes_age_p90", "codes_age_oldest")),
    (
        "Distance of a code to its nearest other one",
        "distance",
        (0.0,),
        tuple(f"validation/codes_nearest_{name}" for name in ("p5", "median", "p95")),
    ),
    ("Dead codes, and near-duplicates", "codes", (0.0,), ("codes_dead", "validation/codes_near_duplicates")),
    ("Samples per second", "samples/s", (0.0,), ("samples_per_s",)),
    ("Seconds of a step, and of those waiting for data", "seconds", (0.0,), ("step_s", "data_wait_s")),
    ("Seconds that a checkpoint took", "seconds", (0.0,), ("checkpoint_s",)),
)
_WITH_BAND = 3  # curves of a chart at most that is drawn with the band of its first one
_SIGNS = {"training": "▶", "finished": "✓", "stopped": "❚❚", "died": "✗", "silent": "?"}


def write_page(reader: RunReader, has_ended: bool = False) -> Path:
    """Complete or not there, and readable by its owner alone: what an alarm quotes may be of the data."""
    facts = reader.facts(has_ended)
    path = reader.folder / PAGE
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(render(reader, facts).encode(errors="replace"))
    return path


def render(reader: RunReader, facts: Facts) -> str:
    is_live = facts.state in ("training", "silent")
    title = f"{facts.stage}: {facts.state}, step {facts.step:,} of {facts.steps:,}"
    reloads = f" It loads itself again every {RELOAD_S} seconds." if is_live else ""
    header = tag(
        "header",
        tag("p", facts.run, class_="kicker"),
        tag("h1", tag("span", f"{_SIGNS[facts.state]} ", aria_hidden="true"), title),
        tag("p", f"{_sentence(facts)}", class_="lead"),
        tag("p", f"Written on {text.clock(time.time())}.{reloads}", class_="note"),
    )
    skip = tag("a", "Skip to the facts", href="#facts", class_="skip")
    main = tag("main", _facts(facts), _incidents(facts), _attempts(facts), _curves(reader, facts))
    body = tag("body", skip, header, main, tag("footer", "All of this stands in journal.jsonl beside the page."))
    return "<!doctype html>\n" + tag("html", head(title, RELOAD_S if is_live else None), body, lang="en") + "\n"


def _sentence(facts: Facts) -> str:
    left = f"{format_seconds(facts.left_s)} left at the present speed. " if facts.left_s is not None else ""
    return f"{text.share(facts.step, facts.steps)} done. {left}State: {facts.why}."


def _facts(facts: Facts) -> Html:
    rows = [
        ("step", f"{facts.step:,} of {facts.steps:,}"),
        *((name, text.number(value)) for name, value in text.losses(facts.figures).items()),
        ("beside reference runs", facts.reference.words()),
        ("learning rate", text.number(facts.figures.get("lr"))),
        ("gradient norm", text.number(facts.figures.get("grad_norm"))),
        ("loss scale", text.number(facts.figures.get("loss_scale"))),
        ("skipped steps", f"{facts.skipped:,}"),
        ("codebook", text.codebook(facts.figures)),
        ("unused codes", text.code_ages(facts.figures)),
        ("distances of codes", text.code_distances(facts.validation)),
        ("speed", text.speed(facts)),
        ("last checkpoint", text.checkpoint(facts.checkpoint)),
        ("peak memory", f"{facts.memory_bytes:,} bytes" if facts.memory_bytes else ""),
        *((f"memory of {node.host}", text.memory(node)) for node in facts.nodes),
        *((f"validation, {name}", text.number(v)) for name, v in text.of_validation(facts.validation).items()),
    ]
    cells = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows if value]
    caption = tag("caption", "Means over the last logged steps, and the last validation")
    return tag(
        "section", tag("h2", "Now"), tag("table", caption, tag("tbody", cells), class_="facts"), id="facts", tabindex=-1
    )


def _incidents(facts: Facts) -> Html:
    if not facts.incidents:
        return tag("section", tag("h2", "Incidents"), tag("p", "None."), id="incidents")
    rows = [
        [text.clock(one["time_s"]), "-" if one["step"] is None else f"{one['step']:,}", one["kind"], one["what"]]
        for one in reversed(facts.incidents)
    ]
    made = table(["when", "step", "what", "why"], rows[:200], f"{len(rows)} incident(s), the newest first")
    return tag("section", tag("h2", "Incidents"), tag("div", made, class_="facts"), id="incidents")


def _attempts(facts: Facts) -> Html:
    rows = [[str(n), text.attempt_words(attempt)] for n, attempt in enumerate(facts.attempts, 1)]
    made = table(["", "where and when"], rows, f"{len(rows)} attempt(s)")
    return tag("section", tag("h2", "Attempts"), tag("div", made, class_="facts"), id="attempts")


def _curves(reader: RunReader, facts: Facts) -> Html:
    curves = reader.history.curves
    shares = [n for n in curves if n.startswith("validation/") and "loss" not in n and "/codes_" not in n]
    named = (
        ("Loss", "loss", (0.0,), ["loss", *(n for n in curves if n.startswith("validation/") and "loss" in n)]),
        ("Parts of the loss", "loss", (0.0,), [name for name in text.losses(facts.figures) if name != "loss"]),
        *((title, label, covers, list(names)) for title, label, covers, names in _CHARTS),
        ("Validation", "figure", (0.0, 1.0), shares),
    )
    charts = []
    for title, label, covers, names in named:
        for first in range(0, len(names), STYLES):
            there = [name for name in names[first : first + STYLES] if name in curves]
            ribbon = ribbon_of(there[0], facts.reference) if there and len(names) <= _WITH_BAND else None
            charts += _chart([series_of(curves[name], name) for name in there], title, label, covers, ribbon)
    charts += _chart(_counted(reader.history.skipped_steps), "Steps skipped so far", "steps", (0.0,))
    charts += _chart(_left(reader, facts), "Hours left, as it was to be expected", "hours", (0.0,))
    return tag("section", tag("h2", "Curves"), tag("div", charts, class_="charts"), id="curves")


def series_of(curve: Curve, label: str) -> Series:
    return Series(label.replace("_", " "), curve.xs, curve.ys)


def ribbon_of(name: str, comparison: Comparison) -> Ribbon | None:
    """The band of a figure, if there is one: means over steps stand in their middle, what validations measured at its
    step.
    """
    band = comparison.bands.get(name)
    if band is None:
        return None
    middles = [(before + step) / 2 for before, step in zip((0, *band.steps), band.steps, strict=False)]
    xs = band.steps if name.startswith("validation/") else middles
    return Ribbon(f"{comparison.runs} reference runs: nine in ten lie here", xs, band.low, band.high)


def _chart(
    series: Sequence[Series], title: str, label: str, covers: Sequence[float], ribbon: Ribbon | None = None
) -> list[Html]:
    """The drawing and the table behind it; nothing where nothing was recorded."""
    drawn = [one for one in series if any(math.isfinite(y) for y in one.ys)]
    if not drawn:
        return []
    return [tag("div", lines(drawn, title, "step", label, covers, ribbon), behind(drawn, title, "step"))]


def _counted(steps: Sequence[int]) -> list[Series]:
    return [Series("skipped", list(steps), [float(n) for n in range(1, len(steps) + 1)])] if steps else []


def _left(reader: RunReader, facts: Facts) -> list[Series]:
    """At every point of the curve: the steps that were left then, at the speed of then."""
    rate = reader.history.curves.get("samples_per_s")
    if rate is None:
        return []
    batch = float(reader.training["global_batch"])
    hours = [(facts.steps - x) * batch / y / 3600 if y > 0 else math.nan for x, y in rate.points]
    return [Series("hours left", rate.xs, hours)]
