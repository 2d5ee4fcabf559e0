"""Charts as inline SVG that take their colours from the page's style, so that they follow its light or dark scheme."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from seed_dist.page.markup import Html, percent, table, tag

STYLES = 8  # of lines: four colours, two kinds of dashes each
_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 18, 12, 38
_DOTTED = 12  # lines of so few points get a dot at each
_POINTS = 240  # points drawn per line; longer series are averaged in bins


@dataclass(frozen=True)
class Series:
    """One line of a chart. Lines differ by colour and by dashes."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Ribbon:
    """What lies between two lines, behind all others."""

    label: str
    xs: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class _Frame:
    """Maps values to places in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1
        return round(_LEFT + (value - self.x_low) / span * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1
        return round(_HEIGHT - _BOTTOM - (value - self.y_low) / span * (_HEIGHT - _TOP - _BOTTOM), 1)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover low .. high, about `wanted` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def binned(xs: Sequence[float], ys: Sequence[float], points: int = _POINTS) -> tuple[list[float], list[float]]:
    """Averages of neighbouring points, at most `points` of them; points that are not finite are left out."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(pairs) / points) or 1
    bins = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [sum(x for x, _ in b) / len(b) for b in bins], [sum(y for _, y in b) / len(b) for b in bins]


def lines(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    covers: Sequence[float] = (0.0,),
    ribbon: Ribbon | None = None,
) -> Html:
    """A line chart with its legend, from x = 0; the y axis covers `covers`, the data and `ribbon`. `title` also
    describes it.
    """
    drawn = [Series(one.label, *binned(one.xs, one.ys)) for one in series]
    drawn = [one for one in drawn if one.xs]
    if not drawn:
        return tag("p", f"{title}: nothing was recorded.", class_="note")
    behind_ = [ribbon] if ribbon is not None else []
    frame, x_ticks, y_ticks = _frame(
        [0.0, *(x for one in drawn for x in one.xs), *(x for one in behind_ for x in one.xs)],
        [*covers, *(y for one in drawn for y in one.ys), *(y for one in behind_ for y in (*one.low, *one.high))],
    )
    paths = [_between(frame, one) for one in behind_]
    paths += [part for index, one in enumerate(drawn) for part in _strokes(frame, one, index)]
    legend = [tag("li", _swatch(index), one.label) for index, one in enumerate(drawn)]
    legend = [*legend, *(tag("li", _ribbon_swatch(), one.label) for one in behind_)] if drawn[1:] or behind_ else []
    ends = "; ".join(f"{one.label}: from {one.ys[0]:.3g} to {one.ys[-1]:.3g}" for one in drawn)
    return _figure(title, f"{title}. {ends}.", [*_axes(frame, x_ticks, y_ticks, x_label, y_label), *paths], legend)


def behind(series: Sequence[Series], title: str, x_label: str, rows: int = 12) -> Html | None:
    """The table behind a chart of lines, folded: some points of the longest line, and the others' nearest to them."""
    there = [one for one in series if any(math.isfinite(y) for y in one.ys)]
    if not there:
        return None
    xs = max((one.xs for one in there), key=len)
    last = len(xs) - 1
    places = sorted({round(i * last / max(1, rows - 1)) for i in range(rows)} & set(range(len(xs))))
    lines_ = [[f"{xs[place]:g}", *(_nearest(one, xs[place]) for one in there)] for place in places]
    return tag(
        "details", tag("summary", f"{title}: as a table"), table([x_label, *(o.label for o in there)], lines_, title)
    )


def _nearest(one: Series, x: float) -> str:
    place = bisect.bisect_left(one.xs, x)
    around = [i for i in (place - 1, place) if 0 <= i < len(one.xs)]
    return f"{one.ys[min(around, key=lambda i: abs(one.xs[i] - x))]:.4g}"


def bars(values: Sequence[float], description: str) -> Html:
    """A small row of bars without axes, one per value from the left, the longest as high as the drawing."""
    high = max(values, default=0) or 1
    drawn = [
        tag("rect", x=i + 0.1, y=round(10 - 10 * value / high, 2), width=0.8, height=round(10 * value / high, 2))
        for i, value in enumerate(values)
    ]
    box = f"0 0 {len(values)} 10"
    return tag("svg", drawn, viewBox=box, preserveAspectRatio="none", class_="bars", role="img", aria_label=description)


def area(values: Sequence[float], title: str, x_label: str, y_label: str, description: str) -> Html:
    """A filled step chart over 1 .. n, for distributions sorted by size or values per position."""
    xs, ys = binned(range(len(values)), values, points=512)
    width = len(values) / max(1, len(xs))
    frame, x_ticks, y_ticks = _frame([0.0, float(len(values))], [0.0, *ys])
    steps = "".join(f"H{frame.x(i * width)}V{frame.y(y)}H{frame.x((i + 1) * width)}" for i, y in enumerate(ys))
    outline = f"M{frame.x(0)},{frame.y(0)}{steps}V{frame.y(0)}Z"
    parts = [*_axes(frame, x_ticks, y_ticks, x_label, y_label), tag("path", d=outline, class_="area")]
    return _figure(title, f"{title}. {description}", parts, [])


def histogram(values: Sequence[float], title: str, x_label: str, y_label: str, bins: int = 32) -> Html:
    """How many values fall into each of `bins` equal ranges between the smallest and the largest."""
    if not values:
        return tag("p", f"{title}: there is nothing to show.", class_="note")
    low, high = min(values), max(values)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    frame, x_ticks, y_ticks = _frame([low, low + bins * width], [0.0, *map(float, counts)])
    steps = "".join(
        f"H{frame.x(low + i * width)}V{frame.y(count)}H{frame.x(low + (i + 1) * width)}"
        for i, count in enumerate(counts)
    )
    outline = f"M{frame.x(low)},{frame.y(0)}{steps}V{frame.y(0)}Z"
    middle = sorted(values)[len(values) // 2]
    description = f"{title}. From {low:g} to {high:g}, median {middle:g}."
    parts = [*_axes(frame, x_ticks, y_ticks, x_label, y_label), tag("path", d=outline, class_="area")]
    return _figure(title, description, parts, [])


def meter(value: float, goal: float | None, baseline: float | None) -> Html:
    """A bar from 0 to 1 with a dark line at the goal and a red one at the baseline; the numbers stand beside it."""
    label = f"{percent(value)}" + (f", target {percent(goal, 0)}" if goal is not None else "")
    marks = [_mark(baseline, "halo"), _mark(baseline, "baseline")] if baseline is not None else []
    marks += [_mark(goal, "goal")] if goal is not None else []
    bar = tag("rect", x=0, y=2, width=round(100 * min(1, max(0, value)), 2), height=6, class_="bar")
    track = tag("rect", x=0, y=2, width=100, height=6, class_="track")
    return tag(
        "svg",
        track,
        bar,
        marks,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="meter",
        role="img",
        aria_label=label,
    )


def _mark(value: float, kind: str) -> Html:
    x = 100 * value
    return tag("line", x1=x, x2=x, y1=0, y2=10, class_=kind, vector_effect="non-scaling-stroke")


def _frame(xs: Sequence[float], ys: Sequence[float]) -> tuple[_Frame, list[float], list[float]]:
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys), 4)
    frame = _Frame(min(xs), max(xs), y_ticks[0], y_ticks[-1])
    return frame, [x for x in x_ticks if frame.x_low <= x <= frame.x_high], y_ticks


def _strokes(frame: _Frame, one: Series, index: int) -> list[Html]:
    """The line, and dots where there are so few points that each one counts."""
    places = [(frame.x(x), frame.y(y)) for x, y in zip(one.xs, one.ys, strict=True)]
    outline = "M" + "L".join(f"{x},{y}" for x, y in places)
    dots = [tag("circle", cx=x, cy=y, r=3, class_=f"dot dot{index % STYLES}") for x, y in places]
    return [tag("path", d=outline, class_=f"line line{index % STYLES}"), *(dots if len(dots) <= _DOTTED else [])]


def _between(frame: _Frame, one: Ribbon) -> Html:
    above = [(frame.x(x), frame.y(y)) for x, y in zip(one.xs, one.high, strict=True)]
    below = [(frame.x(x), frame.y(y)) for x, y in zip(one.xs, one.low, strict=True)]
    outline = "L".join(f"{x},{y}" for x, y in (*above, *reversed(below)))
    return tag("path", d=f"M{outline}Z", class_="ribbon")


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> list[Html]:
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _short(value), x=_LEFT - 6, y=y + 4, class_="tick", text_anchor="end"))
    below = _HEIGHT - _BOTTOM + 15
    parts += [tag("text", _short(x), x=frame.x(x), y=below, class_="tick", text_anchor="middle") for x in x_ticks]
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(tag("text", x_label, x=middle_x, y=_HEIGHT - 6, class_="axis", text_anchor="middle"))
    turned = f"translate(11 {middle_y}) rotate(-90)"
    parts.append(tag("text", y_label, transform=turned, class_="axis", text_anchor="middle"))
    return parts


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _swatch(index: int) -> Html:
    stroke = tag("line", x1=0, x2=24, y1=4, y2=4, class_=f"line line{index % STYLES}")
    return tag("svg", stroke, viewBox="0 0 24 8", width=24, height=8, aria_hidden="true")


def _ribbon_swatch() -> Html:
    area_ = tag("rect", x=0, y=0, width=24, height=8, class_="ribbon")
    return tag("svg", area_, viewBox="0 0 24 8", width=24, height=8, aria_hidden="true")


def _figure(title: str, description: str, parts: Sequence[Html], legend: Sequence[Html]) -> Html:
    drawing = tag("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=description, class_="chart")
    return tag("figure", tag("figcaption", title), drawing, tag("ul", legend, class_="legend") if legend else None)
