"""Finds out what a user's source is: images with .txt files beside them, or tables. Same order every time."""

from __future__ import annotations

from pathlib import Path

from seed_dist.data.folder_source import CAPTION_SUFFIXES, by_stem, list_folder, walk
from seed_dist.data.pairs import IMAGE_SUFFIXES, Listing
from seed_dist.data.table_source import TABLE_SUFFIXES, Columns, list_tables
from seed_dist.errors import DataError

_FORMS = "images with .txt files of the same name, or a CSV, TSV, JSONL or parquet table of images and captions"


def list_source(source: Path, captions: Path | None = None, columns: Columns | None = None) -> Listing:
    """All pairs of `source`: a folder, or a table file. `captions` names the table where the folder does not tell.

    Image paths in a table are relative to the source folder, or to the table's own where the table is the source.
    Raises DataError that says what is missing and what to do.
    """
    columns = columns or Columns()
    if captions is not None:
        listing = list_tables([_captions_file(source, captions)], columns, source_root(source))
    elif source.is_file():
        listing = list_tables([_table(source)], columns, source_root(source))
    elif source.is_dir():
        listing = _list_directory(source, columns)
    else:
        raise DataError(f"source {source} does not exist. Give a folder of {_FORMS}.")
    if not listing.pairs:
        raise DataError(f"source {source} holds no pairs: its table has no rows. Give one with rows.")
    return listing


def source_root(source: Path) -> Path:
    """The folder that image paths of a source are relative to."""
    return source if source.is_dir() else source.parent


def _list_directory(folder: Path, columns: Columns) -> Listing:
    names = walk(folder)
    if not names:
        raise DataError(f"source folder {folder} is empty. Put {_FORMS} into it.")
    images = by_stem(names, IMAGE_SUFFIXES)
    if images.keys() & by_stem(names, CAPTION_SUFFIXES).keys():
        return list_folder(folder, names)
    tables = [folder / name for name in names if "/" not in name and Path(name).suffix.lower() in TABLE_SUFFIXES]
    kinds = sorted({table.suffix.lower() for table in tables})
    if len(kinds) == 1:
        return list_tables(tables, columns, folder)
    if kinds:
        raise DataError(
            f"source folder {folder} holds tables of several kinds ({', '.join(t.name for t in tables[:6])}). "
            "Name the one with the captions: --captions FILE."
        )
    found = f"{len(images)} images but no captions" if images else f"{len(names)} files but no images"
    raise DataError(f"source folder {folder} holds {found}. Needed are {_FORMS}; or name the table: --captions FILE.")


def _captions_file(source: Path, captions: Path) -> Path:
    """The table, as given or inside the source folder."""
    if not source.exists():
        raise DataError(f"source {source} does not exist. Give the folder of the images.")
    for path in (captions, source / captions):
        if path.is_file():
            return _table(path)
    raise DataError(f"--captions {captions} is no file, neither here nor in {source}. Give the path of the table.")


def _table(path: Path) -> Path:
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path} is no table: the allowed endings are {', '.join(sorted(TABLE_SUFFIXES))}.")
    return path
