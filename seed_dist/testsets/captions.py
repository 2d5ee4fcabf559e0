"""Examples of caption sets: COCO's form and Karpathy's, read as for sharding (`seed_dist.data.caption_json_source`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seed_dist.data.caption_json_source import caption_json_pairs
from seed_dist.data.pairs import Pair, readable
from seed_dist.data.table_source import Columns
from seed_dist.data.text_table import read_document
from seed_dist.testsets.example import Example
from seed_dist.testsets.picture_file import picture_below

DOMAINS = ("in-domain", "near-domain", "out-domain")


def karpathy_coco(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """Karpathy's file says of each picture in which of COCO's folders it is."""
    return _captioned(files[0], images.parent, (split,), problems)


def karpathy_flickr30k(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    return _captioned(files[0], images, (split,), problems)


def coco_captions(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """One file per split."""
    return _captioned(files[0], images, (), problems)


def nocaps(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """COCO's form with a domain for each picture."""
    examples = _captioned(files[0], images, (), problems)
    document = read_document(files[0])
    entries = document["images"] if isinstance(document, dict) else ()
    domains = {_nocaps_key(entry): entry.get("domain") for entry in entries if isinstance(entry, dict)}
    problems += [
        f"{files[0]}: image {example.key}: domain is {domain!r}; one of {', '.join(DOMAINS)}"
        for example in examples
        if (domain := domains.get(example.key)) not in DOMAINS
    ]
    return [replace(example, domain=str(domains.get(example.key))) for example in examples]


def _nocaps_key(entry: dict[str, Any]) -> str:
    return Path(str(entry.get("file_name", entry.get("open_images_id")))).stem


def _captioned(path: Path, root: Path, splits: tuple[str, ...], problems: list[str]) -> list[Example]:
    """Examples of a document in its order, named by their pictures; what cannot be one is added to `problems`."""
    examples = []
    for pair in caption_json_pairs(path, Columns(splits=splits), root):
        found = _example(root, pair)
        if isinstance(found, Example):
            examples.append(found)
        else:
            problems.append(f"{path.parent / pair.name}: {found}")
    return examples


def _example(root: Path, pair: Pair) -> Example | str:
    """The example of a pair, or why there is none. Blank captions are left out."""
    if pair.problem is not None:
        return ": ".join(pair.problem)
    assert isinstance(pair.image, str), "the pictures of JSON documents are files"
    path = Path(pair.image)
    picture = picture_below(root, str(path.relative_to(root))) if path.is_relative_to(root) else None
    if picture is None:
        return f"{readable(pair.image)} is not below {root}"
    try:
        captions = tuple(text for caption in pair.captions if (text := caption.decode().strip()))
    except UnicodeDecodeError:
        return "a caption is no UTF-8"
    return Example(path.stem, picture, captions) if captions else "all captions are blank"
