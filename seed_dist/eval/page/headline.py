"""The top of the page: what SEED is, one image all the way through, and the numbers against their targets."""

from __future__ import annotations

from typing import Any

from seed_dist.eval.page.captions import badge, marked
from seed_dist.eval.results import Example, Gap, Results, by_cause
from seed_dist.eval.targets import TARGETS, Target, lookup
from seed_dist.page.charts import meter
from seed_dist.page.markup import Child, Html, decimal, percent, tag
from seed_dist.page.pictures import missing_picture, picture

_ABOUT = (
    "SEED lets one language model read and draw pictures. A tokenizer turns each picture into a short row of discrete "
    "codes, words of a picture language, that are ordered from left to right like text. The same language model then "
    "continues codes with a caption, or a caption with codes, and a painter turns codes back into a picture. The image "
    "encoder, the painter and the language model's own weights stay frozen; the tokenizer and a small adapter learn."
)


def about(numbers: dict[str, Any]) -> Html:
    """Title, one paragraph for newcomers, and what this report measured."""
    size = lookup(numbers, "codebook.size")
    queries = numbers.get("queries")
    codes = f" Here a picture is {queries} codes out of a vocabulary of {size}." if size and queries else ""
    data, split, samples = (numbers.get(key) for key in ("data", "split", "samples"))
    return tag(
        "div",
        tag("p", f"Recipe {numbers.get('recipe')} · {data}, split “{split}” · {samples} images", class_="kicker"),
        tag("h1", "Pictures as words: a SEED report"),
        tag("p", _ABOUT + codes, class_="lead"),
    )


def story(examples: list[Example]) -> Html | None:
    """One image of the split through every direction."""
    one = next((e for e in examples if e.codes and e.repainted and e.written), None) or next(iter(examples), None)
    if one is None:
        return None
    steps: list[tuple[str, Child]] = [("A picture it never saw", picture(one.original, one.caption))]
    if one.codes:
        steps.append((f"becomes {len(one.codes)} codes", code_chips(one.codes)))
    if one.repainted:
        steps.append(("painted from the codes", picture(one.repainted, f"painted from the codes of: {one.caption}")))
    if one.written is not None:
        steps.append(("described from the codes", [marked(one.written, one.caption), badge(one.written, one.caption)]))
    if one.imagined_codes is not None or one.imagined is not None:
        drawn = (
            picture(one.imagined, f"painted from the caption: {one.caption}")
            if one.imagined
            else missing_picture("none")
        )
        steps.append(("painted from the caption alone", [drawn, tag("small", one.caption)]))
    if len(steps) < 2:
        return None
    items = [tag("li", tag("h3", f"{i}. {title}"), body) for i, (title, body) in enumerate(steps, start=1)]
    return tag("ol", items, class_="story", aria_label="One picture through the whole system")


def code_chips(codes: list[int]) -> Html:
    return tag(
        "div", [tag("span", code) for code in codes], class_="codes", role="img", aria_label=f"{len(codes)} codes"
    )


def glance(results: Results) -> Html:
    """Every headline number with its target and what knowing nothing would give."""
    shown = [item for target in TARGETS if (item := _measure(results.numbers, target)) is not None]
    judged = results.numbers.get("targets", {})
    met = sum(bool(entry["met"]) for entry in judged.values())
    missing = len(TARGETS) - len(shown)
    if judged:
        verdict = f"{met} of {len(judged)} measured targets are met" + (
            f"; {missing} could not be measured." if missing else "."
        )
    else:
        verdict = "The targets belong to the embedded scenes, so none are applied to this data."
    explained = (
        "Bars run from 0 to 100 %. The line across a bar is the target, the red line what an answer that knows "
        "nothing of the picture would get. The range is a 95 % bootstrap interval: how exactly so many pictures "
        "tell the value, not what another training would change."
    )
    return tag(
        "section",
        tag("h2", "At a glance"),
        tag("p", verdict, " ", explained),
        tag("ul", shown, class_="measures"),
        id="glance",
    )


def _measure(numbers: dict[str, Any], target: Target) -> Html | None:
    value = lookup(numbers, target.path)
    if value is None:
        return None
    judged = numbers.get("targets", {}).get(target.path)
    baseline = lookup(numbers, target.baseline)
    bar = meter(value, target.goal if judged else None, baseline) if target.kind != "zero" else None
    return tag(
        "li",
        tag("div", tag("span", target.name), tag("span", _shown(value, target), class_="value"), class_="name"),
        bar,
        tag("p", _verdict(judged, target), _uncertainty(numbers, target), _knowing_nothing(baseline)),
        tag("p", target.meaning),
    )


def _shown(value: float, target: Target) -> str:
    if target.kind == "zero":
        return "0, exactly" if value == 0 else f"{value:.2g}"
    return decimal(value) if target.kind == "cosine" else percent(value)


def _verdict(judged: dict[str, Any] | None, target: Target) -> list[Child]:
    if judged is None:
        return []
    goals = {
        "share": f"at least {percent(target.goal, 0)}",
        "cosine": f"at least {decimal(target.goal, 2)}",
        "zero": "exactly 0",
    }
    word, kind = ("✓ met", "good") if judged["met"] else ("✗ not met", "bad")
    return [tag("span", word, class_=f"verdict {kind}"), f": target {goals[target.kind]}. "]


def _uncertainty(numbers: dict[str, Any], target: Target) -> str:
    figure = (numbers.get("figures") or {}).get(target.path)
    if figure is None or figure["interval"] is None:
        return ""
    low, high = (_shown(end, target) for end in figure["interval"])
    return f"95 %: {low} to {high} (n = {figure['n']}). "


def _knowing_nothing(baseline: float | None) -> str:
    return f"Knowing nothing: {percent(baseline)}." if baseline is not None else ""


def gaps(results: Results) -> Html | None:
    """What could not be measured, and what to do about it; nothing when all is there."""
    if not results.gaps and not results.failures:
        return None
    items = [_gap(gap, names, "Not made yet") for gap, names in by_cause(results.gaps)]
    items += [_gap(gap, names, "Failed") for gap, names in by_cause(results.failures)]
    return tag(
        "section",
        tag("h2", "What is missing from this report"),
        tag("p", "These parts were not measured. Run the command below each and the evaluation again."),
        items,
        id="missing",
    )


def _gap(gap: Gap, names: list[str], state: str) -> Html:
    said = tag("p", tag("strong", f"{state}: {', '.join(names)}. "), gap.why)
    return tag("div", said, tag("pre", gap.command, tabindex=0) if gap.command else None)
