"""Captions beside the truth: right and wrong words told apart by colour, by mark and by underline."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from seed_dist.eval.attributes import ATTRIBUTES
from seed_dist.eval.results import Example
from seed_dist.page.markup import Html, join, percent, table, tag
from seed_dist.page.pictures import picture

_SHOWN = 18


def differences(written: str, truth: str) -> tuple[list[tuple[str, str]], int]:
    """(kind, words) of the written caption in order, kind right, wrong or gone; and how many words are not right.

    Captions of equal length are compared place by place, others by their longest common runs.
    """
    said, meant = written.split(), truth.split()
    parts, faults = [], 0
    for first, last, from_, to in _runs(said, meant):
        if said[first:last] == meant[from_:to]:
            parts.append(("right", " ".join(said[first:last])))
            continue
        faults += max(last - first, to - from_)
        parts.append(("wrong", " ".join(said[first:last])) if last > first else ("gone", " ".join(meant[from_:to])))
    return parts, faults


def _runs(said: list[str], meant: list[str]) -> list[tuple[int, int, int, int]]:
    """Runs of words that are equal or different as a whole: said[i:j] stands for meant[k:l]."""
    if len(said) != len(meant):
        return [codes[1:] for codes in SequenceMatcher(None, said, meant, autojunk=False).get_opcodes()]
    runs = []
    for _, places in groupby(range(len(said)), key=lambda i: said[i] == meant[i]):
        first, *rest = places
        runs.append((first, first + len(rest) + 1, first, first + len(rest) + 1))
    return runs


def marked(written: str, truth: str) -> Html:
    """The written caption with its faults marked."""
    if not written.strip():
        return tag("span", tag("span", "nothing was written", class_="gone"), class_="sentence")
    spans = []
    for kind, words in differences(written, truth)[0]:
        text = {"right": words, "wrong": f"✗ {words}", "gone": f"missing: {words}"}[kind]
        spans.append(tag("span", text, class_=kind))
    return tag("span", join(*(join(span, " ") for span in spans)), class_="sentence")


def badge(written: str, truth: str) -> Html:
    faults = differences(written, truth)[1]
    if faults == 0:
        return tag("span", "✓ every word", class_="badge good")
    return tag("span", f"✗ {faults} word{'s' if faults > 1 else ''} off", class_="badge bad")


def section(numbers: dict[str, Any], examples: list[Example], unseen: list[Example]) -> Html | None:
    """Captions that the language model wrote from codes."""
    if numbers.get("caption") is None:
        return None
    shown = [e for e in examples if e.written is not None][:_SHOWN]
    new = [e for e in unseen if e.written is not None][: _SHOWN // 3]
    return tag(
        "section",
        tag("h2", "Captions written from codes"),
        tag(
            "p",
            "The language model sees the codes alone, never the pixels. Words that differ from the truth are "
            "underlined with a wave and carry a ✗. The images are the first of the split, not chosen.",
        ),
        attribute_table(numbers),
        tag("ul", [_card(e) for e in shown], class_="pictures narrow"),
        [
            tag("h3", "Colour and glyph pairs that training never had"),
            tag("ul", [_card(e) for e in new], class_="pictures narrow"),
        ]
        if new
        else None,
        id="captions",
    )


def _card(example: Example) -> Html:
    assert example.written is not None, "cards are made of examples that have a caption"
    faults = differences(example.written, example.caption)[1]
    truth = tag("small", "truth: ", example.caption) if faults else None
    text = tag(
        "div", marked(example.written, example.caption), badge(example.written, example.caption), tag("br"), truth
    )
    return tag("li", tag("div", picture(example.original, example.caption), text, class_="card"))


def attribute_table(numbers: dict[str, Any]) -> Html:
    """Caption scores on this split and on the unseen pairs, beside chance and shuffled captions."""
    caption, unseen = numbers["caption"], (numbers.get("heldout_pairs") or {}).get("caption") or {}
    columns = {
        "this split": caption,
        "unseen pairs": unseen,
        "shuffled captions": caption.get("shuffled") or {},
        "most frequent answer": caption.get("chance") or {},
    }
    columns = {name: scores for name, scores in columns.items() if scores}
    rows = [
        [name, *(percent(scores.get(key)) for scores in columns.values())]
        for key, name in [("exact", "every word"), *((attribute, attribute) for attribute in ATTRIBUTES)]
        if any(scores.get(key) is not None for scores in columns.values())
    ]
    made = table(["", *columns], rows, f"Captions that are right, {caption.get('n')} images")
    return join(made, tag("p", caption["unscored"], class_="note") if caption.get("unscored") else None)
