"""Records of painted pictures and their originals, and how a page shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from PIL import Image

from seed_dist.page.markup import Html, tag
from seed_dist.suites.painting import noise_picture, thumbnail
from seed_dist.suites.picture_figures import CAPTION, NOISE, ORIGINAL, PAINTED
from seed_dist.suites.picture_judges import PictureJudges
from seed_dist.suites.suite import Record
from seed_dist.testsets.example import Example

_SHOWN = 24
_PICTURES = ("picture_original", "picture_painted")


def judged(
    judges: PictureJudges, examples: Sequence[Example], originals: Sequence[Image.Image], painted: Sequence[Image.Image]
) -> list[Record]:
    """One record per example: features of the original, the painted picture, one of noise and the first caption;
    thumbnails.
    """
    captions = [example.captions[0] if example.captions else "" for example in examples]
    noise = [noise_picture(example.key, picture.size) for example, picture in zip(examples, painted, strict=True)]
    pictures, count = judges.of_pictures([*originals, *painted, *noise]), len(examples)
    seen = {
        whose: {judge: features[place * count : (place + 1) * count] for judge, features in pictures.items()}
        for place, whose in enumerate((ORIGINAL, PAINTED, NOISE))
    }
    seen[CAPTION] = judges.of_captions(captions)
    records = []
    for row, example in enumerate(examples):
        arrays = {
            f"{judge}.{whose}": features[row]
            for whose, found in seen.items()
            for judge, features in found.items()
            if whose != CAPTION or captions[row]
        }
        shown = zip(_PICTURES, (originals[row], painted[row]), strict=True)
        arrays |= {name: thumbnail(picture) for name, picture in shown}
        records.append(Record(example.key, {}, arrays))
    return records


def gallery(records: Sequence[Record], examples: Sequence[Example]) -> Html:
    """The first pictures of the set, each original beside what was painted."""
    cards = [_card(record, example) for record, example in zip(records[:_SHOWN], examples[:_SHOWN], strict=True)]
    return tag("div", tag("h3", "Originals and painted pictures"), tag("ul", cards, class_="pictures"))


def _card(record: Record, example: Example) -> Html:
    shown = [_image(record.arrays[name], f"{name} {record.key}") for name in _PICTURES if name in record.arrays]
    said = [tag("small", record.key), *(tag("span", caption, class_="text") for caption in example.captions[:1])]
    return tag("li", tag("figure", tag("div", shown, class_="pair"), tag("figcaption", said)))


def _image(encoded: Any, description: str) -> Html:
    address = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
    return tag("img", src=address, alt=description, class_="picture", loading="lazy", decoding="async")
