"""A look at a set of images before anything is trained on it: some of its pictures, its sizes, what was left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seed_dist.data.codec import decode_image
from seed_dist.data.filters import DELIBERATE
from seed_dist.data.reader import ImageShards
from seed_dist.data.reject_list import REJECTS_NAME, Reject, read_reject_list
from seed_dist.page.charts import histogram
from seed_dist.page.document import head
from seed_dist.page.markup import Html, percent, table, tag
from seed_dist.page.pictures import picture

_NAMES_SHOWN = 20  # per reason
_CAPTION_SHOWN = 300  # characters


@dataclass(frozen=True)
class _Shown:
    """One sample: its picture as it is seen, and what is known of the stored file."""

    key: str
    captions: Sequence[str]
    image: Image.Image
    file_bytes: int


def render_dataset(folder: Path, samples: int, measured: int, seed: int) -> str:
    """A page about a finished set: no script, nothing from the network.

    Shown are `samples` pictures that `seed` draws. Sides are those of at most `measured` pictures that it draws too.
    DataError where the set is not intact.
    """
    shards = ImageShards(folder)
    drawn = np.random.default_rng(seed).permutation(len(shards))
    rows = sorted(drawn[:samples].tolist())
    sections = [
        _sizes(shards, sorted(drawn[:measured].tolist())),
        _pictures([_shown(shards, row) for row in rows], len(shards), seed),
        _left_out(folder, shards),
    ]
    details = shards.manifest.details
    about = (
        f"{len(shards):,} pictures with captions in {len(shards.manifest.shards):,} shards, "
        f"{sum(entry.size_bytes for entry in shards.manifest.shards) / 1e6:,.1f} MB, made from {details['source']}. "
        f"{details['pairs'] - len(shards):,} of {details['pairs']:,} pairs are not among them. "
        f"Fingerprint {shards.manifest.fingerprint}."
    )
    header = tag("header", tag("h1", folder.name), tag("p", about, class_="lead"))
    body = tag("body", header, tag("main", *sections))
    return "<!doctype html>\n" + tag("html", head(f"Data set: {folder.name}"), body, lang="en") + "\n"


def _shown(shards: ImageShards, row: int) -> _Shown:
    data = shards.image_bytes(row)
    return _Shown(shards.keys[row], shards.all_captions[row], decode_image(data), len(data))


def _sizes(shards: ImageShards, rows: Sequence[int]) -> Html:
    sizes = [shards.size(row) for row in rows]
    sides, aspects = [min(size) for size in sizes], [width / height for width, height in sizes]
    lengths = [len(shards.captions[row]) for row in rows]
    several = sum(len(captions) > 1 for captions in shards.all_captions)
    note = f"Of {len(rows):,} pictures that were drawn." if len(rows) < len(shards) else "Of all pictures."
    if several:
        note += f" {several:,} pictures of the set have several captions; counted here is the first."
    charts = [
        histogram(sides, "Shorter side", "pixels", "pictures"),
        histogram(aspects, "Width divided by height", "ratio; 1 is square", "pictures"),
        histogram(lengths, "Length of captions", "characters", "pictures"),
    ]
    return tag("section", tag("h2", "Sizes"), tag("p", note), tag("div", charts, class_="charts"), id="sizes")


def _pictures(shown: Sequence[_Shown], total: int, seed: int) -> Html:
    cards = [_card(sample) for sample in shown]
    note = f"{len(shown):,} of {total:,}, drawn with seed {seed}, in the order of the set."
    return tag("section", tag("h2", "Pictures"), tag("p", note), tag("ul", cards, class_="pictures"), id="pictures")


def _card(sample: _Shown) -> Html:
    first, *others = sample.captions
    width, height = sample.image.size
    text = first if len(first) <= _CAPTION_SHOWN else f"{first[:_CAPTION_SHOWN]}…"
    more = None
    if others:
        more = tag("details", tag("summary", f"{len(others)} more"), tag("ul", [tag("li", other) for other in others]))
    size = tag("small", f"{sample.key}: {width} × {height}, {sample.file_bytes / 1000:.1f}\u00a0kB")
    caption = tag("figcaption", tag("span", text, class_="text"), more, size)
    return tag("li", tag("figure", picture(sample.image, first), caption))


def _left_out(folder: Path, shards: ImageShards) -> Html:
    """Every reason with its count, how it counts, and the first names."""
    counts: Counter[str] = Counter()
    first: dict[str, list[Reject]] = defaultdict(list)
    for _, reject in read_reject_list(folder):
        counts[reject.reason] += 1
        if counts[reject.reason] <= _NAMES_SHOWN:
            first[reject.reason].append(reject)
    if not counts:
        return tag("section", tag("h2", "Left out"), tag("p", "Nothing."), id="rejects")
    total = shards.manifest.details["pairs"]
    lines = [
        [reason, f"{count:,}", percent(count / total), "asked for" if reason in DELIBERATE else "damage"]
        for reason, count in counts.most_common()
    ]
    named = [_named(reason, count, first[reason]) for reason, count in counts.most_common()]
    heads = ["reason", "number", "of all pairs", "kind"]
    return tag("section", tag("h2", "Left out"), table(heads, lines, "By reason"), named, id="rejects")


def _named(reason: str, count: int, first: Sequence[Reject]) -> Html:
    more = f"and {count - len(first):,} more in {REJECTS_NAME}" if count > len(first) else None
    return tag(
        "details",
        tag("summary", f"{reason}: {count:,}"),
        tag("ul", [tag("li", tag("code", reject.source), f" {reject.detail}") for reject in first]),
        tag("p", more, class_="note") if more else None,
    )
