"""A folder of images with captions in .txt files beside them, in any depth of subfolders."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from seed_dist.data.pairs import IMAGE_SUFFIXES, Digest, Listing, Pair, file_identity, readable

CAPTION_SUFFIXES = frozenset({".txt"})
MAX_CAPTION_BYTES = 1 << 16  # longer files are no captions; the rest is not even read


def walk(folder: Path) -> list[str]:
    """Relative names of all files below `folder`, sorted by bytes; without hidden ones and linked folders."""
    names = []
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(root, folder)
        names += [os.path.normpath(f"{prefix}/{name}") for name in files if not name.startswith(".")]
    return sorted(names, key=os.fsencode)


def _raise(error: OSError) -> None:
    raise error


def list_folder(folder: Path, names: list[str]) -> Listing:
    """Pairs of the images among `names`; images without caption and captions without image are problems."""
    images, captions = by_stem(names, IMAGE_SUFFIXES), by_stem(names, CAPTION_SUFFIXES)
    pairs, digest = [], Digest()
    for stem in sorted(images.keys() | captions.keys(), key=os.fsencode):
        caption = _read_caption(folder / captions[stem][0]) if stem in captions else None
        for pair in _pairs_of(images.get(stem, []), captions.get(stem, []), caption):
            identity = file_identity(folder / pair.image) if isinstance(pair.image, str) else ""
            digest.add(pair.name.encode(), identity.encode(), b"" if caption is None else b"=" + caption)
            pairs.append(pair)
    return Listing("folder", pairs, digest.value)


def _pairs_of(images: list[str], captions: list[str], caption: bytes | None) -> list[Pair]:
    """The pairs of one name: the first image is kept; which of several the caption is about, nobody can tell."""
    if not images:
        return [
            Pair(readable(captions[0]), None, problem=("missing_image", "no image of that name beside the caption"))
        ]
    if caption is None:
        problem = ("missing_caption", "no .txt file of that name beside the image")
        return [Pair(readable(image), image, problem=problem) for image in images]
    double = ("duplicate_name", f"has the same name as {readable(images[0])}, which is kept")
    first, *others = images
    return [
        Pair(readable(first), first, caption),
        *(Pair(readable(image), image, caption, double) for image in others),
    ]


def by_stem(names: list[str], suffixes: frozenset[str]) -> dict[str, list[str]]:
    """Relative names without ending -> those of `names` that have it and one of the endings."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path per name is what makes listing millions slow
        if suffix.lower() in suffixes:
            found[stem].append(name)
    return found


def _read_caption(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CAPTION_BYTES + 1)
