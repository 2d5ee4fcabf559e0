"""A folder of images with captions in .txt files beside them, in any depth of subfolders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from seed_dist.data.pairs import IMAGE_SUFFIXES, MAX_CAPTION_BYTES, Pair, read_regular, readable
from seed_dist.data.patience import HungError, Lane, Patience

CAPTION_SUFFIXES = frozenset({".txt"})


def walk(folder: Path) -> list[str]:
    """Relative names of all files below `folder`, sorted by bytes; without hidden ones and linked folders."""
    return sorted((name for names in stems(folder) for name in names), key=os.fsencode)


def stems(folder: Path, prefix: str = "") -> Iterator[list[str]]:
    """Relative names of all files below `folder`, those that differ in their ending alone together, sorted by bytes.

    One folder's names are in memory at a time (and those of the folders above it). Hidden files and linked folders are
    left out. Raises OSError for a folder that cannot be read.
    """
    files: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}  # "name/" sorts a folder among the stems as it would sort among whole paths
    with os.scandir(folder / prefix) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders[f"{entry.name}/"] = entry.name
            elif not entry.is_dir():
                files[os.path.splitext(entry.name)[0]].append(entry.name)  # noqa: PTH122 - a Path per name is slow
    for part in sorted([*files, *folders], key=os.fsencode):
        if part in folders:
            yield from stems(folder, f"{prefix}{part}")
        else:
            yield [f"{prefix}{name}" for name in sorted(files[part], key=os.fsencode)]


def folder_pairs(folder: Path, patience: Patience | None = None) -> Iterator[Pair]:
    """Pairs of the images below `folder`; images without caption and captions without image are problems."""
    patience = patience or Patience()
    with Lane(patience.timeout_s, patience.retries) as lane:
        for names in stems(folder):
            images, captions = having(names, IMAGE_SUFFIXES), having(names, CAPTION_SUFFIXES)
            if images or captions:
                yield from _pairs_of(folder, images, captions, lane)


def has_pairs(folder: Path) -> bool:
    """Whether an image with a caption beside it is anywhere below; ends at the first."""
    return any(having(names, IMAGE_SUFFIXES) and having(names, CAPTION_SUFFIXES) for names in stems(folder))


def having(names: list[str], suffixes: frozenset[str]) -> list[str]:
    """Those of `names` that have one of the endings, in whichever case."""
    return [name for name in names if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122


def _pairs_of(folder: Path, images: list[str], captions: list[str], lane: Lane) -> Iterator[Pair]:
    """The pairs of one name: the first image is kept; which of several the caption is about, nobody can tell."""
    if not images:
        problem = ("missing_image", "no image of that name beside the caption")
        yield Pair(readable(captions[0]), None, problem=problem)
        return
    if not captions:
        problem = ("missing_caption", "no .txt file of that name beside the image")
        for image in images:
            yield Pair(readable(image), str(folder / image), problem=problem)
        return
    caption, unreadable = _caption(folder / captions[0], lane)
    for number, image in enumerate(images):
        double = ("duplicate_name", f"has the same name as {readable(images[0])}, which is kept")
        yield Pair(readable(image), str(folder / image), caption, double if number else unreadable)


def _caption(path: Path, lane: Lane) -> tuple[tuple[bytes, ...], tuple[str, str] | None]:
    """The text, or what keeps it from being read."""
    try:
        text = lane.call(str(path), partial(read_regular, path, MAX_CAPTION_BYTES + 1))
    except OSError as error:
        return (), ("missing_caption", f"the .txt file cannot be read: {error.strerror}")
    except HungError:
        return (), ("timed_out", "no answer from the .txt file")
    if text is None:
        return (), ("missing_caption", "the .txt beside the image is no regular file")
    return (text,), None
