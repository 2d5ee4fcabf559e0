"""The data card of a set of images, README.md beside its manifest: what is in it, what was left out, what is not known.

Everything is read from the finished set itself. Strings of the data are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from seed_dist.data.filters import DELIBERATE
from seed_dist.data.index import INDEX_NAME
from seed_dist.data.manifest import CARD_NAME, Manifest
from seed_dist.data.reader import ImageShards
from seed_dist.data.request import REQUEST_NAME
from seed_dist.fsio import write_text
from seed_dist.page.markdown import listed, section, table, text

_MEASURED = 1000  # pictures whose sizes are looked at
_CAPTIONS_SHOWN = 5
_Numbers = npt.NDArray[Any]
_SEED = 0  # decides which ones
_LICENCE = (
    "Not recorded: sources seldom say, and a web image's licence is its owner's. Find out before this set, or a model "
    "made from it, is passed on."
)


def write_data_card(folder: Path) -> Path:
    """README.md in the folder of a finished set; DataError where that is not intact."""
    write_text(folder / CARD_NAME, data_card(folder))
    return folder / CARD_NAME


def data_card(folder: Path) -> str:
    """Markdown. Sizes are those of at most 1,000 pictures that a fixed seed draws; all else is of the whole set."""
    shards = ImageShards(folder)
    manifest, drawn = shards.manifest, np.random.default_rng(_SEED).permutation(len(shards)).tolist()
    texts = _scan(folder, sorted(drawn[:_CAPTIONS_SHOWN]))
    return (
        f"# Data card: {text(folder.resolve().name)}\n\nPictures with captions, as this project's training and "
        "evaluation read them. Written from the finished set.\n\n"
        + section("What is in it", table(["", ""], _counts(manifest, texts)))
        + section("Where it comes from", table(["", ""], _sources(folder, manifest)))
        + section("Licences", _LICENCE)
        + section("Left out", _left_out(manifest))
        + section("Sizes", _sizes(shards, sorted(drawn[:_MEASURED]), texts))
        + section("Some captions", listed(map(text, texts.shown)))
    )


@dataclass(frozen=True)
class _Texts:
    """The index as arrays, so that sets of a hundred million pictures fit: of every caption a hash, its characters and
    words; of every picture size and checksum of its file as one number, and whether it has several captions."""

    hashes: _Numbers
    characters: _Numbers
    words: _Numbers
    files: _Numbers
    several: int
    shown: list[str]


def _scan(folder: Path, rows: Sequence[int]) -> _Texts:
    """Read index.parquet once; `rows` are those whose captions are shown."""
    parts: dict[str, list[Any]] = {name: [] for name in ("hashes", "characters", "words", "files")}
    wanted, shown, several, first = set(rows), [], 0, 0
    with pq.ParquetFile(folder / INDEX_NAME) as file:
        for batch in file.iter_batches(columns=["size", "checksum", "caption", "other_captions"]):
            firsts, others = (batch.column(name).to_pylist() for name in ("caption", "other_captions"))
            captions = [*firsts, *(other for more in others for other in more or ())]
            parts["hashes"].append(np.array([hash(caption) for caption in captions], np.int64))
            parts["characters"].append(np.array([len(caption) for caption in captions], np.int32))
            parts["words"].append(np.array([len(caption.split()) for caption in captions], np.int32))
            sizes, checksums = (np.array(batch.column(name), np.uint64) for name in ("size", "checksum"))
            parts["files"].append((sizes << np.uint64(32)) | checksums)
            several += sum(bool(more) for more in others)
            shown += [firsts[row - first] for row in range(first, first + len(firsts)) if row in wanted]
            first += len(firsts)
    whole = {name: np.concatenate(arrays) if arrays else np.empty(0, np.int64) for name, arrays in parts.items()}
    return _Texts(whole["hashes"], whole["characters"], whole["words"], whole["files"], several, shown)


def _counts(manifest: Manifest, texts: _Texts) -> Iterator[tuple[str, str]]:
    yield "pictures", f"{manifest.samples:,}"
    yield "captions", f"{len(texts.hashes):,}, {len(np.unique(texts.hashes)):,} of them different"
    yield "pictures with several captions", f"{texts.several:,}"
    yield "pictures whose file (by size and CRC-32) came before", f"{len(texts.files) - len(np.unique(texts.files)):,}"
    yield "shards", f"{len(manifest.shards):,}, {sum(entry.size_bytes for entry in manifest.shards):,} bytes"
    yield "fingerprint", manifest.fingerprint


def _sources(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    try:
        sources = json.loads((folder / REQUEST_NAME).read_text())["sources"]
    except (OSError, ValueError, KeyError):
        sources = []
    yield "kind", manifest.details.get("source", "not known")
    yield "named", ", ".join(Path(str(source)).name for source in sources) or "not known"
    yield "fingerprint of the source", manifest.parents.get("source", "not known")
    yield "pairs in the source", f"{manifest.details['pairs']:,}"


def _left_out(manifest: Manifest) -> str:
    pairs = manifest.details["pairs"]
    counts = {**manifest.details.get("rejected", {}), **manifest.details.get("filtered", {})}
    rows = [
        (reason, f"{count:,}", f"{count / pairs:.2%}", "asked for" if reason in DELIBERATE else "damage")
        for reason, count in counts.items()
    ]
    filters = [(name, value) for name, value in manifest.details.get("filters", {}).items()]
    said = table(["reason", "number", "of all pairs", "kind"], rows) or "No pair was left out."
    return f"{said}\n\n{table(['filter', 'value'], filters) or 'No filter was set.'}\n"


def _sizes(shards: ImageShards, rows: Sequence[int], texts: _Texts) -> str:
    sizes = [shards.size(row) for row in rows]
    sides, aspects = [min(size) for size in sizes], [width / height for width, height in sizes]
    measured = (
        ("shorter side in pixels", sides),
        ("width divided by height", aspects),
        ("characters of a caption", texts.characters),
        ("words of a caption", texts.words),
    )
    lines = [(name, *(f"{value:.4g}" for value in _spread(values))) for name, values in measured if len(values)]
    note = f"Pictures: {len(rows):,} of {len(shards):,}, drawn."
    return f"{note}\n\n{table(['', 'smallest', '5 %', 'median', '95 %', 'largest'], lines)}"


def _spread(values: Sequence[float] | _Numbers) -> Sequence[float]:
    found: Sequence[float] = np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist()
    return found
