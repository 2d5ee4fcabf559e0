"""Existing webdatasets and img2dataset's output as a source: members become pairs, whatever state their keys are in.

A tar's members are grouped by their names up to the last dot, wherever in the tar they stand; a name that comes again
is another sample. Images are read when their shard is made; here captions (.txt, .json) are, and everything else
stays closed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from seed_dist.data.arrow_table import arrow_table
from seed_dist.data.pairs import IMAGE_SUFFIXES, MAX_CAPTION_BYTES, Pair, Span, readable
from seed_dist.data.patience import Patience, answers
from seed_dist.data.table_source import CAPTION_COLUMNS, Columns, caption_bytes, in_split, shown_text, too_low
from seed_dist.data.tar_members import DamagedTarError, Member, tar_members

_READ = frozenset({*IMAGE_SUFFIXES, ".txt", ".json"})
MAX_JSON_BYTES = 1 << 20
_NO_CAPTION = ("missing_caption", "no .txt, and no .json with a caption, of that name in the tar")
Problem = tuple[str, str]


@dataclass
class _Sample:
    """What a tar holds under one name."""

    images: list[Member] = field(default_factory=list)
    text: bytes | None = None
    cells: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


def tar_pairs(path: Path, columns: Columns, patience: Patience | None = None) -> Iterator[Pair]:
    """Pairs of one tar in the order of its members, then what img2dataset's table beside it says it could not fetch."""
    name, patience = readable(path.name), patience or Patience()
    if not answers(path, patience):
        yield Pair(name, None, problem=("timed_out", f"{patience.in_words}; all its pairs are missing"))
        return
    samples: dict[tuple[str, int], _Sample] = {}
    refused, damage = _collect(path, samples)
    lent = {first_dot(key) for (key, _), sample in samples.items() if sample.images and key != first_dot(key)}
    for (key, turn), sample in samples.items():
        if sample.images:
            yield from _pairs(path, f"{name}/{_shown(key, turn)}", _with_text(samples, key, sample), columns)
        elif key not in lent:
            kind = ("missing_image", "no image of that name in the tar")
            yield Pair(f"{name}/{_shown(key, turn)}", None, problem=sample.problem or kind)
    for member, problem in refused:
        yield Pair(f"{name}/{readable(member)}", None, problem=problem)
    if damage is not None:
        yield Pair(name, None, problem=("damaged_tar", f"{damage}; unknown is how many pairs are lost"))
    yield from _not_fetched(path.with_suffix(".parquet"))


def _collect(path: Path, samples: dict[tuple[str, int], _Sample]) -> tuple[list[tuple[str, Problem]], str | None]:
    """Fill `samples`; the value is the members that are refused, and what is wrong with the tar as a whole."""
    refused: list[tuple[str, Problem]] = []
    seen: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            for member in tar_members(path):
                key, suffix = os.path.splitext(member.name)  # noqa: PTH122 - members are no paths of this machine
                suffix = suffix.lower()
                if member.fault is not None:
                    refused.append((member.name, ("unsafe_member", member.fault)))
                elif os.path.basename(member.name).startswith(".") or suffix not in _READ:  # noqa: PTH119
                    detail = f"only images, .txt and .json are read; {suffix or 'such files'} stay closed"
                    refused.append((member.name, ("unknown_member", detail)))
                else:
                    seen[member.name] += 1
                    _take(samples.setdefault((key, seen[member.name]), _Sample()), suffix, member, file)
    except DamagedTarError as error:
        return refused, str(error)
    except OSError as error:
        return refused, f"it cannot be read: {error.strerror}"
    return refused, None


def _take(sample: _Sample, suffix: str, member: Member, file: IO[bytes]) -> None:
    if suffix in IMAGE_SUFFIXES:
        sample.images.append(member)
        return
    limit = MAX_CAPTION_BYTES + 1 if suffix == ".txt" else MAX_JSON_BYTES
    file.seek(member.offset)
    data = file.read(min(member.size, limit))
    if suffix == ".txt":
        sample.text = data
        return
    try:
        value = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        more = f"more than {limit} bytes" if member.size > limit else str(error)
        sample.problem = ("malformed_json", f"{readable(member.name)}: {more}"[:200])
        return
    sample.cells = value if isinstance(value, dict) else {}


def _with_text(samples: dict[tuple[str, int], _Sample], key: str, sample: _Sample) -> _Sample:
    """The sample; an image without caption takes that of webdataset's key, which ends at the first dot."""
    if sample.text is None and not sample.cells and (lender := samples.get((first_dot(key), 1))) is not None:
        return _Sample(sample.images, lender.text, lender.cells, lender.problem)
    return sample


def first_dot(key: str) -> str:
    """Folder and name up to the first dot: webdataset's key (its tariterators.base_plus_ext)."""
    folder, slash, base = key.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _pairs(path: Path, name: str, sample: _Sample, columns: Columns) -> Iterator[Pair]:
    """The pair of a sample: its first image; further ones are ledgered."""
    if not in_split(sample.cells, columns):
        return
    image, *others = sample.images
    problem, captions = _captions(sample, columns)
    problem = problem or too_low(sample.cells, columns)
    yield Pair(name, Span(str(path), image.offset, image.size), captions, problem)
    for other in others:
        double = ("duplicate_name", f"{readable(other.name)}: another image, {readable(image.name)}, is kept")
        yield Pair(name, None, problem=double)


def _captions(sample: _Sample, columns: Columns) -> tuple[Problem | None, tuple[bytes, ...]]:
    """A list of captions where there is one, else the .txt, else the first known field of the .json."""
    cells = sample.cells
    if columns.caption is not None:
        return caption_bytes(cells.get(columns.caption)) if sample.problem is None else (sample.problem, ())
    if isinstance(cells.get("captions"), list) and cells["captions"]:
        return caption_bytes(cells["captions"])
    if sample.text is not None:
        return None, (sample.text,)
    known = next((cells[column] for column in CAPTION_COLUMNS if cells.get(column) is not None), None)
    if known is None:
        return sample.problem or _NO_CAPTION, ()
    return caption_bytes(known)


def _not_fetched(sidecar: Path) -> Iterator[Pair]:
    """Rows of img2dataset's table whose download or resizing failed."""
    if not sidecar.is_file():
        return
    table = arrow_table(sidecar)
    if not {"key", "status", "error_message"} <= set(table.columns):
        return
    url = ["url"] if "url" in table.columns else []
    for row in table.rows(["key", "status", "error_message", *url]):
        cells = {name: readable(shown_text(value)) for name, value in row.cells.items()}
        if cells["status"] != "success":
            detail = f"{cells['status']}: {cells['error_message']} {cells.get('url', '')}".strip()
            yield Pair(f"{readable(sidecar.name)}/{cells['key']}", None, problem=("not_downloaded", detail))


def _shown(key: str, turn: int) -> str:
    return readable(key) if turn == 1 else f"{readable(key)}#{turn}"
