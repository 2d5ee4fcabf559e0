"""Opens a test set as it was downloaded: looks for its files, reads them strictly, says in a card what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seed_dist.data.pairs import readable
from seed_dist.errors import ConfigError, DataError, UnavailableError
from seed_dist.fsio import fingerprint, sha256_bytes, sha256_file
from seed_dist.testsets.captions import coco_captions, karpathy_coco, karpathy_flickr30k, nocaps
from seed_dist.testsets.example import Example, TestSet
from seed_dist.testsets.picture_file import PictureFile, missing
from seed_dist.testsets.published import PUBLISHED, Part, Published
from seed_dist.testsets.questions import gqa, vizwiz, vqa

Reader = Callable[
    [Sequence[Path], Path, str, list[str]], list[Example]
]  # of files, folder of pictures, split; problems

READERS: dict[str, Reader] = {
    "coco-karpathy": karpathy_coco,
    "coco-captions": coco_captions,
    "flickr30k": karpathy_flickr30k,
    "nocaps": nocaps,
    "vqav2": vqa,
    "okvqa": vqa,
    "vizwiz": vizwiz,
    "gqa": gqa,
}
_SHOWN = 10  # of many problems of one kind
_PEOPLE = {"vqav2": 10, "okvqa": 10, "vizwiz": 10}  # answers to a question


def open_testset(name: str, folder: Path, split: str) -> TestSet:
    """Split `split` of set `name` (see `PUBLISHED`) as it lies in `folder`; pictures are opened only when asked for.

    Fewer examples than were published are a warning in the card, for parts are legitimate. Raises ConfigError for names
    that do not exist; UnavailableError for files to download (all of them, and from where); DataError for whatever in
    the annotations cannot be used (file and key), and for pictures that are not there.
    """
    published = _published(name, split)
    files, images = _located(name, split, published, folder)
    problems: list[str] = []
    examples = READERS[name](files, images, split, problems)
    keys = Counter(example.key for example in examples)
    problems += [f"{files[0]}: {key} names {count} examples" for key, count in keys.items() if count > 1]
    problems += [
        f"{files[0]}: {readable(key)} is no text to name an example by" for key in keys if key != readable(key)
    ]
    if problems:
        raise DataError(f"{_listed(problems, 'problem(s)')}\nDownload the files again, or mend what was changed.")
    if not examples:
        raise DataError(f"{files[0]} has no examples of {name}, split {split}. Give the published file.")
    pictures = dict.fromkeys(e.image for e in examples if isinstance(e.image, PictureFile))
    if absent := missing(pictures):
        raise DataError(
            f"{_listed(absent, f'of {len(pictures)} pictures are missing')}\n"
            f"Download them from {published.images.url}, or leave their entries out of the annotations."
        )
    counts = _counts(examples, len(pictures))
    return TestSet(name, split, examples, _card(name, split, published, files, examples, counts))


def _published(name: str, split: str) -> Published:
    if name not in PUBLISHED:
        raise ConfigError([f"there is no test set {name!r}; there are {', '.join(PUBLISHED)}"])
    if split not in PUBLISHED[name]:
        raise ConfigError([f"{name} has no split {split!r} with public answers; it has {', '.join(PUBLISHED[name])}"])
    return PUBLISHED[name][split]


def _located(name: str, split: str, published: Published, folder: Path) -> tuple[list[Path], Path]:
    """The annotation files and the folder of the pictures."""
    parts = (*published.annotations, published.images)
    paths = [_first(folder, part, Path.is_file) for part in published.annotations]
    paths.append(_first(folder, published.images, Path.is_dir))
    found = [path for path in paths if path is not None]
    if len(found) == len(paths):
        return found[:-1], found[-1]
    lines = [
        f"  {folder / part.places[0]}  from {part.url}" for part, path in zip(parts, paths, strict=True) if not path
    ]
    raise UnavailableError(
        f"{name}, split {split}, is not complete in {folder}. Download and unpack:\n" + "\n".join(lines)
    )


def _first(folder: Path, part: Part, exists: Callable[[Path], bool]) -> Path | None:
    return next((path for place in part.places if exists(path := folder / place)), None)


def _listed(items: Sequence[str], what: str) -> str:
    more = f"\n  and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {what}:\n" + "\n".join(f"  {readable(item)}" for item in items[:_SHOWN]) + more


def _counts(examples: Sequence[Example], images: int) -> dict[str, int]:
    counts = {
        "images": images,
        "captions": sum(len(example.captions) for example in examples),
        "questions": sum(bool(example.answers) for example in examples),
        "answers": sum(len(example.answers) for example in examples),
    }
    domains = Counter(example.domain for example in examples if example.domain)
    return {key: count for key, count in counts.items() if count} | dict(sorted(domains.items()))


def _card(
    name: str,
    split: str,
    published: Published,
    files: Sequence[Path],
    examples: Sequence[Example],
    counts: dict[str, int],
) -> dict[str, Any]:
    sums = {path.name: sha256_file(path) for path in files}
    chosen = sha256_bytes("\n".join(example.key for example in examples).encode())
    warnings = [
        f"{counts.get(key, 0)} {key}, but {count} were published"
        for key, count in published.counts.items()
        if counts.get(key, 0) != count
    ]
    people = _PEOPLE.get(name)
    if people and (odd := sum(len(example.answers) != people for example in examples)):
        warnings.append(f"{odd} questions have not {people} answers, as published")
    return {
        "name": name,
        "split": split,
        "counts": counts,
        "published_counts": published.counts,
        "warnings": warnings,
        "licence": published.licence,
        "citation": published.citation,
        "sources": [part.url for part in (*published.annotations, published.images)],
        "annotations_sha256": sums,
        "examples_sha256": chosen,
        "fingerprint": fingerprint({"annotations": sums, "examples": chosen}),
    }
