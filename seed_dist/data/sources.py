"""Finds out what a user's sources are, and puts their pairs into one order: by name, the same every time."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from seed_dist.data.caption_json_source import caption_json_pairs
from seed_dist.data.folder_source import folder_pairs, has_pairs, having, stems
from seed_dist.data.pairs import IMAGE_SUFFIXES, Pair, Source, readable
from seed_dist.data.patience import Patience, answers
from seed_dist.data.table_source import TABLE_SUFFIXES, Columns, open_table, suffix_of, table_pairs
from seed_dist.data.tar_source import tar_pairs
from seed_dist.errors import DataError

_FORMS = (
    "images with .txt files of the same name, a CSV, TSV, JSONL, JSON, parquet or Arrow table of images and captions, "
    "or a webdataset's tars"
)


def list_source(
    sources: Path | Sequence[Path],
    captions: Path | None = None,
    columns: Columns | None = None,
    patience: Patience | None = None,
) -> Source:
    """The pairs of one or several sources: folders, tables, tars, or patterns for these (`*`, `**`, `?`, `[...]`).

    `captions` names the table (or a pattern for tables) where the folder does not tell. Image paths in a table are
    relative to the source folder, or to the table's own where the table is the source. Raises DataError that says what
    is missing and what to do.
    """
    paths = [path for pattern in ([sources] if isinstance(sources, Path) else sources) for path in _matching(pattern)]
    paths = sorted(dict.fromkeys(paths), key=os.fsencode)
    columns, patience = columns or Columns(), patience or Patience()
    if captions is None:
        found = [_source(path, columns, patience) for path in paths]
    elif len(paths) == 1:
        root = source_root(paths[0])
        found = [_table(path, columns, root, patience) for path in _captions_files(paths[0], captions)]
    else:
        raise DataError(f"--captions {captions} goes with one source, the folder of its images; {len(paths)} are given")
    found = [_below(path, source) for path, source in zip(paths, found, strict=True)] if len(paths) > 1 else found
    kind = "+".join(sorted({source.kind for source in found}))
    return Source(kind, lambda: chain.from_iterable(source.pairs() for source in found))


def source_root(source: Path) -> Path:
    """The folder that image paths of a source are relative to."""
    return source if source.is_dir() else source.parent


def _matching(pattern: Path) -> list[Path]:
    """The path itself where it exists, else what the pattern matches."""
    if pattern.exists():
        return [pattern]
    if matches := glob.glob(str(pattern), recursive=True):  # noqa: PTH207 - patterns may be absolute
        return [Path(match) for match in matches]
    kind = "matches nothing" if glob.has_magic(str(pattern)) else "does not exist"
    raise DataError(f"source {pattern} {kind}. Give a folder of {_FORMS}.")


def _below(path: Path, source: Source) -> Source:
    """Of several sources, a folder's names begin with its own; names of tables and tars tell theirs already."""
    if not path.is_dir():
        return source
    prefix = readable(path.resolve().name)
    return Source(source.kind, lambda: (replace(pair, name=f"{prefix}/{pair.name}") for pair in source.pairs()))


def _source(path: Path, columns: Columns, patience: Patience) -> Source:
    if path.is_dir():
        return _directory(path, columns, patience)
    _require_regular(path)
    if path.suffix.lower() == ".tar":
        return Source("tar", partial(tar_pairs, path.absolute(), columns, patience))
    return _table(path, columns, path.parent, patience)


def _require_regular(path: Path) -> None:
    """DataError for a pipe or device, where opening may never end."""
    if not path.is_file():
        raise DataError(f"{path} is no regular file (a pipe or a device?). Give a folder of {_FORMS}.")


def _directory(folder: Path, columns: Columns, patience: Patience) -> Source:
    if has_pairs(folder):
        return Source("folder", partial(folder_pairs, folder.absolute(), patience))
    top = sorted((path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=os.fsencode)
    tars = [path for path in top if path.suffix.lower() == ".tar"]
    if tars:
        return Source(
            "tar", lambda: chain.from_iterable(tar_pairs(path.absolute(), columns, patience) for path in tars)
        )
    tables = [path for path in top if suffix_of(path) in TABLE_SUFFIXES]
    tables = tables or [path for path in top if path.suffix.lower() == ".json"]
    kinds = sorted({suffix_of(table) for table in tables})
    if len(kinds) == 1:
        found = [_table(table, columns, folder, patience) for table in tables]
        return Source(found[0].kind, lambda: chain.from_iterable(table.pairs() for table in found))
    if kinds:
        raise DataError(
            f"source folder {folder} holds tables of several kinds ({', '.join(t.name for t in tables[:6])}). "
            "Name the one with the captions: --captions FILE."
        )
    raise DataError(_no_source(folder))


def _no_source(folder: Path) -> str:
    files = images = 0
    for names in stems(folder):
        files, images = files + len(names), images + len(having(names, IMAGE_SUFFIXES))
    if not files:
        return f"source folder {folder} is empty. Put {_FORMS} into it."
    found = f"{images} images but no captions" if images else f"{files} files but no images"
    return f"source folder {folder} holds {found}. Needed are {_FORMS}; or name the table: --captions FILE."


def _captions_files(source: Path, captions: Path) -> list[Path]:
    """The tables, as given or inside the source folder, by name."""
    for path in (captions, source / captions):
        if path.is_file():
            return [path]
        if matches := glob.glob(str(path)):  # noqa: PTH207 - patterns may be absolute
            return sorted((Path(match) for match in matches if Path(match).is_file()), key=os.fsencode)
    raise DataError(f"--captions {captions} is no file, neither here nor in {source}. Give the path of the table.")


def _table(path: Path, columns: Columns, root: Path, patience: Patience) -> Source:
    path, root, suffix = path.absolute(), root.absolute(), suffix_of(path)
    if not answers(path, patience):
        raise DataError(
            f"{path} cannot be read: {patience.in_words}. Run the same command again when its disk answers."
        )
    if suffix == ".json":
        return Source("json", partial(caption_json_pairs, path, columns, root))
    if suffix not in TABLE_SUFFIXES:
        allowed = ", ".join(sorted({*TABLE_SUFFIXES, ".json", ".tar"}))
        raise DataError(f"{path} is no table and no tar: the allowed endings are {allowed}.")
    return Source(suffix.removeprefix("."), lambda: _table_pairs(path, columns, root))


def _table_pairs(path: Path, columns: Columns, root: Path) -> Iterator[Pair]:
    return table_pairs(open_table(path), columns, root)
