"""The vocabulary: how codes are used, how far they lie apart, and images that use some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seed_dist.eval.results import ShownCode
from seed_dist.page.charts import area, bars, histogram
from seed_dist.page.markup import Html, decimal, percent, tag
from seed_dist.page.pictures import picture

_CHOICE = (
    "Three codes that occur most often, three of the rarest, and three of the least stable: those whose uses lie "
    "nearest to the border to another code. (--codes 137 512 shows others.) The images are the first of the split that "
    "have the code, with the positions where they have it; a position is a place in the row of codes, not in the image."
)


def section(numbers: dict[str, Any], shown: Sequence[ShownCode], journal: Sequence[dict[str, Any]]) -> Html | None:
    """Usage of the codes, the check of their order, distances, ages, and the gallery."""
    scores, order = numbers.get("codebook"), _causality(numbers)
    if not scores and not order:
        return None
    made = [_usage(scores), _health(scores, journal), _charts(scores)] if scores else None
    return tag("section", tag("h2", "The vocabulary of codes"), made, order, _gallery(shown), id="codebook")


def _usage(scores: dict[str, Any]) -> Html:
    return tag(
        "p",
        f"{percent(scores['used_fraction'])} of {scores['size']} codes occur in this split. Perplexity "
        f"{scores['perplexity']:.0f}: as varied as that many codes used equally often. A tokenizer that collapsed "
        "would use a few codes for everything.",
    )


def _health(scores: dict[str, Any], journal: Sequence[dict[str, Any]]) -> list[Html]:
    """Distances of the exported codebook; ages and collapses as training recorded them."""
    said = []
    if spacing := scores.get("spacing"):
        said.append(
            f"A code is {spacing['median']:.3g} away from the nearest other one (median; {spacing['p5']:.3g} to "
            f"{spacing['p95']:.3g} for nine in ten), and {spacing['near_duplicates']} have one so near that both say "
            "the same."
        )
    steps = [record for record in journal if record["event"] == "step" and "codes_age_oldest" in record]
    if steps:
        last = steps[-1]
        said.append(
            f"At the end of training half of the codes had been used in the last {last['codes_age_median']:.0f} steps "
            f"or were drawn anew then, nine in ten in the last {last['codes_age_p90']:.0f}; the longest unused one had "
            f"waited {last['codes_age_oldest']:.0f} steps, and {last['codes_dead']:.0f} counted as dead."
        )
    if collapses := sum(record["event"] == "collapse" for record in journal):
        said.append(f"Training acted on a collapse of the codebook {collapses} time(s).")
    return [tag("p", text) for text in said]


def _charts(scores: dict[str, Any]) -> Html:
    counts = sorted(scores["counts"], reverse=True)
    used = sum(count > 0 for count in counts)
    described = f"{used} of {len(counts)} codes occur; the most frequent {counts[0]} times."
    places = scores["position_perplexity"]
    spread = f"From {min(places):.0f} to {max(places):.0f} codes in effective use at a position."
    charts = [
        area(counts, "How often each code occurs", "codes, most frequent first", "times", described),
        area(places, "Effective number of codes at each position", "position, left to right", "perplexity", spread),
    ]
    if distances := scores.get("nearest_distances"):
        charts.append(histogram(distances, "Distance of each code to its nearest other one", "distance", "codes"))
    return tag("div", charts, class_="charts")


def _gallery(shown: Sequence[ShownCode]) -> list[Html] | None:
    if not shown:
        return None
    return [
        tag("h3", "Images that use a code"),
        tag("p", _CHOICE),
        tag("ul", [tag("li", _code(one)) for one in shown], class_="queries"),
    ]


def _code(one: ShownCode) -> list[Html | None]:
    use = one.use
    sure = f"; mean margin {decimal(use.margin, 2)}" if use.margin is not None else ""
    about = f"{use.why}: {use.uses} time(s) in {use.images} image(s){sure}"
    described = f"Code {use.code} by position: {', '.join(map(str, use.at))}."
    cards = [
        tag("li", picture(image, f"uses code {use.code}: {caption}"), f"at {', '.join(str(p + 1) for p in places)}")
        for image, caption, (_, places) in zip(one.images, one.captions, use.rows, strict=True)
    ]
    return [
        tag("h3", f"Code {use.code}"),
        tag("p", about, class_="note"),
        tag("ul", cards, class_="strip") if cards else tag("p", "No image of this split uses it.", class_="note"),
        tag("figure", bars(use.at, described), tag("figcaption", "how often at each position, left to right"))
        if use.uses
        else None,
    ]


def _causality(numbers: dict[str, Any]) -> Html | None:
    scores = numbers.get("causality")
    if not scores:
        return None
    verdict = (
        "nothing earlier moved by a single bit"
        if scores["max_violation"] == 0
        else f"earlier embeddings moved by up to {scores['max_violation']:.3g}"
    )
    return tag(
        "p",
        tag("strong", "Left to right, exactly: "),
        f"in {scores['comparisons']} comparisons on {scores['images']} images, all queries from some place on were "
        f"replaced by noise or zeros; {verdict}, while the embeddings from that place on did change, by "
        f"{scores['min_effect']:.2g} or more.",
    )
