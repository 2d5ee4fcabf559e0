"""Painted pictures: from an image's own codes, and from captions by way of the language model."""

from __future__ import annotations

from typing import Any

from seed_dist.eval.attributes import ATTRIBUTES
from seed_dist.eval.results import Example
from seed_dist.page.markup import Html, decimal, join, percent, table, tag
from seed_dist.page.pictures import missing_picture, picture

_SHOWN = 16
_PAIRS = (
    "Left the original, right what the painter makes of its codes. Codes keep what matters for meaning; exact places "
    "and sizes may move. The images are the first of the split, not chosen."
)
_READING = (
    "The frozen CLIP reads colours and glyphs off the result, choosing among all that exist. It errs too: its reading "
    "of the original pictures is the ceiling in the table. A caption that became no complete image counts as all wrong."
)


def from_codes(numbers: dict[str, Any], examples: list[Example]) -> Html | None:
    """Originals beside pictures painted from their codes, with the reconstruction scores."""
    scores = numbers.get("reconstruction")
    if not scores:
        return None
    shown = [e for e in examples if e.repainted is not None][:_SHOWN]
    rows = [
        ["causal embeddings", *(decimal(scores[key]) for key in ("cosine", "baseline_cosine", "cosine_centered"))],
        ["the last of them", "–", "–", decimal(scores["last_cosine_centered"])],
        [
            "generation embedding",
            *(decimal(scores.get(key)) for key in ("generation_cosine", "generation_baseline", "")),
        ],
    ]
    return tag(
        "section",
        tag("h2", "What the codes keep"),
        [tag("p", _PAIRS), tag("ul", [_pair(e) for e in shown], class_="pictures")] if shown else None,
        table(
            ["cosine with the truth", "from codes", "predicting the mean", "from codes, centred"],
            rows,
            "Vectors rebuilt from codes (1 is perfect); the painter reads the generation embedding",
        ),
        id="reconstruction",
    )


def _pair(example: Example) -> Html:
    assert example.repainted is not None, "pairs are made of repainted examples"
    images = tag(
        "div",
        picture(example.original, f"original: {example.caption}"),
        picture(example.repainted, f"painted from the codes of: {example.caption}"),
        class_="pair",
    )
    labels = tag("div", tag("span", "original"), tag("span", "from its codes"), class_="pairlabels", aria_hidden="true")
    return tag("li", tag("figure", images, labels, tag("figcaption", tag("span", example.caption, class_="text"))))


def from_captions(numbers: dict[str, Any], examples: list[Example], unseen: list[Example]) -> Html | None:
    """Pictures from captions, with what the judge read off them."""
    scores = numbers.get("generation")
    if not scores:
        return None
    shown = [e for e in examples if e.imagined_codes is not None or e.imagined is not None][:_SHOWN]
    new = [e for e in unseen if e.imagined_codes is not None or e.imagined is not None][: _SHOWN // 2]
    return tag(
        "section",
        tag("h2", "Pictures from captions"),
        tag(
            "p",
            "The language model continues a caption with codes, unforced; the painter paints them. ",
            None if scores.get("unscored") else _READING,
        ),
        _generation_table(numbers),
        tag("ul", [_imagined(e) for e in shown], class_="pictures"),
        [
            tag("h3", "Colour and glyph pairs that training never had"),
            tag("ul", [_imagined(e) for e in new], class_="pictures"),
        ]
        if new
        else None,
        id="generation",
    )


def _imagined(example: Example) -> Html:
    painted = (
        picture(example.imagined, f"painted from the caption: {example.caption}")
        if example.imagined
        else missing_picture("the codes were no complete image")
    )
    images = tag("div", picture(example.original, f"original: {example.caption}"), painted, class_="pair")
    labels = tag(
        "div", tag("span", "original"), tag("span", "from the caption"), class_="pairlabels", aria_hidden="true"
    )
    faults = [reading for reading in example.readings if not reading.right]
    items = [tag("li", f"✗ {r.attribute}: read as {r.read}, not {r.wanted}", class_="bad") for r in faults]
    if example.readings and not faults:
        items = [tag("li", "✓ all read as wanted", class_="good")]
    caption = tag("figcaption", tag("span", example.caption, class_="text"), tag("ul", items, class_="readings"))
    return tag("li", tag("figure", images, labels, caption))


def _generation_table(numbers: dict[str, Any]) -> Html:
    scores, unseen = numbers["generation"], (numbers.get("heldout_pairs") or {}).get("generation") or {}
    columns = {
        "painted, this split": scores,
        "painted, unseen pairs": unseen,
        "embedding before painting": scores.get("before_painting") or {},
        "embedding from the image's own codes": scores.get("from_image_codes") or {},
        "originals (ceiling)": scores.get("originals") or {},
        "most frequent answer": scores.get("chance") or {},
    }
    columns = {name: column for name, column in columns.items() if column}
    names = {"valid": "complete image codes", **{key: f"{key} read right" for key in ATTRIBUTES}}
    rows = [
        [name, *(percent(column.get(key)) for column in columns.values())]
        for key, name in names.items()
        if any(column.get(key) is not None for column in columns.values())
    ]
    notes = [tag("p", scores["unscored"], class_="note")] if scores.get("unscored") else []
    if scores.get("clip_similarity") is not None:
        notes.append(
            tag(
                "p",
                f"CLIP cosine between painted and original picture: {scores['clip_similarity']:.3f}; with pictures of "
                f"other captions: {scores['clip_similarity_shuffled']:.3f}.",
            )
        )
    return join(table(["", *columns], rows, f"{scores['n']} captions, {scores['painted']} of them painted"), notes)
