"""Search in both directions: the table of recalls, and queries that hit and missed."""

from __future__ import annotations

from typing import Any

from seed_dist.eval.results import RetrievalExamples
from seed_dist.eval.retrieval import KS, Query
from seed_dist.page.markup import Html, percent, table, tag
from seed_dist.page.pictures import picture

_ROWS = {
    "embedding": "causal embedding",
    "codes": "codes",
    "clip": "frozen CLIP, as peer",
    "shuffled": "shuffled captions",
    "chance": "chance",
}


def section(numbers: dict[str, Any], examples: RetrievalExamples | None) -> Html | None:
    """Recalls, then examples."""
    scores = numbers.get("retrieval")
    if not scores:
        return None
    heads = ["", *(f"image→text R@{k}" for k in KS), *(f"text→image R@{k}" for k in KS), "mean"]
    rows = [
        [
            name,
            *(percent(scores[key][way][f"r{k}"]) for way in ("i2t", "t2i") for k in KS),
            percent(scores[key]["r_mean"]),
        ]
        for key, name in _ROWS.items()
        if scores.get(key)
    ]
    n, distinct = scores["n"], scores["distinct_captions"]
    same = (
        f" {n - distinct} captions repeat an earlier one; images with equal captions count as right for each other."
        if n > distinct
        else ""
    )
    return tag(
        "section",
        tag("h2", "Finding the right one among many"),
        tag(
            "p",
            f"Each of {n} images looks for its caption among all {n} captions, and the other way round. R@k is the "
            f"share that finds it among the first k; ties are broken at random, in expectation.{same}",
        ),
        table(heads, rows, "Recall"),
        _examples(examples) if examples else None,
        id="retrieval",
    )


def _examples(examples: RetrievalExamples) -> list[Html]:
    source = {"codes": "from codes alone", "embedding": "from the continuous embedding"}[examples.source]
    return [
        tag("h3", f"From image to caption, {source}"),
        tag("ul", [_by_image(query, examples) for query in examples.by_image], class_="queries"),
        tag("h3", f"From caption to image, {source}"),
        tag("ul", [_by_text(query, examples) for query in examples.by_text], class_="queries"),
    ]


def _state(query: Query) -> Html:
    if query.is_hit:
        return tag("span", "✓ hit", class_="badge good")
    place = f", right at place {query.right.index(True) + 1}" if any(query.right) else ""
    return tag("span", f"✗ miss{place}", class_="badge bad")


def _by_image(query: Query, examples: RetrievalExamples) -> Html:
    found = [
        tag("li", "✓ " if right else None, examples.captions[row], class_="right" if right else None)
        for row, right in zip(query.found, query.right, strict=True)
    ]
    truth = None if any(query.right) else tag("small", "truth: ", examples.captions[query.row])
    shown = picture(examples.images[query.row], examples.captions[query.row])
    return tag("li", tag("div", shown, tag("div", _state(query), tag("ol", found), truth), class_="query"))


def _by_text(query: Query, examples: RetrievalExamples) -> Html:
    strip = [
        tag(
            "li",
            picture(examples.images[row], examples.captions[row], "picture hit" if right else "picture"),
            "✓ right" if right else str(place),
        )
        for place, (row, right) in enumerate(zip(query.found, query.right, strict=True), start=1)
    ]
    return tag(
        "li",
        tag("span", f"“{examples.captions[query.row]}” ", class_="text"),
        _state(query),
        tag("ol", strip, class_="strip"),
    )
