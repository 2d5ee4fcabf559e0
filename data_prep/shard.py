"""Turns images with captions into shards: python data_prep/shard.py SOURCE [SOURCE ...] OUT

SOURCE is what holds the pairs, or a quoted pattern for several; they are put in order by name. One example for each:

  shard.py photos OUT                                   folder: NAME.jpg (png, webp, ...) with NAME.txt, any depth
  shard.py photos OUT --captions list.csv               table (csv, tsv, jsonl, parquet, arrow) beside its images
  shard.py 'parts/*.parquet' OUT                        tables with the images' bytes, as Hugging Face has them
  shard.py cc3m/images OUT --captions Train_GCC.tsv     Conceptual Captions: caption, tab, URL; files fetched before
  shard.py unsplash/images OUT --captions 'photos.tsv*' Unsplash: pictures are named photo_id.jpg
  shard.py coco/val2014 OUT --captions captions_val2014.json        COCO: all captions stay with their image
  shard.py coco OUT --captions dataset_coco.json --split test       Karpathy's splits (train,restval for two)
  shard.py img2dataset_output OUT                       webdataset or img2dataset: tars (what failed is listed)

  shard.py laion/parts OUT --fetch                      tables with URLs: pictures are fetched while shards are made

Without --fetch nothing comes from the network: URLs name files that were fetched before. Run again after an
interruption: finished shards are kept, a finished OUT stays as it is. Run it several times at once, here or on other
machines with the same disk (slurm/shard.sbatch), and all of them share the work. With --update OUT follows a source
that grew or was mended, and what did not come in time is asked for again.
What is left out stands in OUT/rejects.parquet with its reason; OUT/README.md is the set's data card, for people.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.data.card import write_data_card
from seed_dist.data.filters import DUPLICATES, Filters
from seed_dist.data.image_policy import EXIF_TURNS, FORMATS, RESAMPLES, RESIZES, ImagePolicy
from seed_dist.data.manifest import CARD_NAME
from seed_dist.data.patience import Patience
from seed_dist.data.request import ShardOptions
from seed_dist.data.sharding import ShardOutcome, shard_source
from seed_dist.data.table_source import Columns, check_image_name
from seed_dist.errors import ConfigError


def main() -> None:
    given = _parser().parse_intermixed_args()
    scores, problems = _scores(given.min_similarity)
    splits = tuple(name.strip() for name in (given.split or "").split(",") if name.strip())
    options = ShardOptions(
        shard_samples=given.shard_samples,
        max_reject_fraction=given.max_reject_fraction,
        workers=given.workers,
        captions=given.captions,
        columns=Columns(
            given.image_column,
            given.caption_column,
            given.image_name,
            given.split_column,
            splits,
            tuple(scores),
            given.fetch,
        ),
        hash_range=(given.hash_range[0], given.hash_range[1]),
        policy=ImagePolicy(given.resize, given.size_px, given.format, given.quality, given.exif, given.resample),
        filters=Filters(
            given.min_side_px,
            given.max_aspect,
            given.min_caption_chars,
            given.max_caption_words,
            given.drop_duplicates,
        ),
        patience=Patience(given.timeout_s, given.retries, given.fetches),
        update=given.update,
    )
    _check(options, problems)
    outcome = shard_source(given.source, given.out, options)
    print(_summary(given.out, outcome))
    if not outcome.was_finished or not (given.out / CARD_NAME).exists():
        print(f"what is in it: {write_data_card(given.out)}")


def _parser() -> argparse.ArgumentParser:
    defaults = ShardOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=Path, nargs="+", metavar="SOURCE", help="folder, table, tar, or a quoted pattern for these")
    add("out", type=Path, metavar="OUT", help="folder for the shards")
    add("--workers", type=int, default=defaults.workers, metavar="N", help="processes (default: %(default)s)")
    add("--shard-samples", type=int, default=defaults.shard_samples, metavar="N",
        help="pairs per shard (default: %(default)s)")  # fmt: skip
    add("--max-reject-fraction", type=float, default=defaults.max_reject_fraction, metavar="F",
        help="share of damaged pairs, 0 to 1, above which the job stops (default: %(default)s)")  # fmt: skip
    add("--update", action="store_true",
        help="OUT may be of an earlier state of SOURCE: only shards whose pairs changed are made")  # fmt: skip
    _add_columns(parser.add_argument_group("where the pairs are"))
    _add_patience(parser.add_argument_group("how long a source is waited for (what does not come is a reject)"))
    _add_policy(parser.add_argument_group("what is done to images (one that needs no change keeps its bytes)"))
    _add_filters(parser.add_argument_group("what is left out, counted and listed (default: nothing)"))
    return parser


def _add_columns(group: Any) -> None:
    add = group.add_argument
    add("--captions", type=Path, metavar="FILE", help="the table with the captions; a quoted pattern for several")
    add("--image-column", metavar="NAME", help="column of the image path or bytes (default: found by its name)")
    add("--caption-column", metavar="NAME", help="column of the caption or captions (default: found by its name)")
    add("--image-name", metavar="PATTERN",
        help="a row's file from its columns and `row` (from 0): {photo_id}.jpg, {row:08d}.png")  # fmt: skip
    add("--split", metavar="VALUE[,VALUE]", help="keep the rows with one of these values in the column of the split")
    add("--split-column", default="split", metavar="NAME", help="that column (default: %(default)s)")
    add("--fetch", action="store_true",
        help="fetch pictures that a table names by URL: http, https, or any of fsspec's (s3, gs, ...)")  # fmt: skip
    add("--hash-range", type=float, nargs=2, default=[0.0, 1.0], metavar=("LOW", "HIGH"),
        help="keep pairs whose name hashes into LOW..HIGH of 0..1: splits of one source (default: all)")  # fmt: skip


def _add_patience(group: Any) -> None:
    add, defaults = group.add_argument, Patience()
    add("--timeout-s", type=float, default=defaults.timeout_s, metavar="S",
        help="seconds for each attempt to read a picture or caption (default: %(default)g)")  # fmt: skip
    add("--retries", type=int, default=defaults.retries, metavar="N",
        help="further attempts at what does not come or fails for a while (default: %(default)s)")  # fmt: skip
    add("--fetches", type=int, default=defaults.fetches, metavar="N",
        help="URLs that each process fetches at once, with --fetch (default: %(default)s)")  # fmt: skip


def _add_policy(group: Any) -> None:
    add, defaults = group.add_argument, ImagePolicy()
    add("--resize", choices=RESIZES, default=defaults.resize,
        help="shorter: shrink that side to --size-px; squash: a square of it (default: %(default)s)")  # fmt: skip
    add("--size-px", type=int, metavar="N", help="pixels for --resize")
    add("--resample", choices=RESAMPLES, default=defaults.resample,
        help="for --resize; area: faster and softer, as img2dataset does it (default: %(default)s)")  # fmt: skip
    add("--format", choices=FORMATS, default=defaults.format, help="keep: other than JPEG, PNG, WebP become PNG")
    add("--quality", type=int, default=defaults.quality, metavar="Q",
        help="of JPEG and WebP that are made here, 1 to 100 (default: %(default)s)")  # fmt: skip
    add("--exif", choices=EXIF_TURNS, default=defaults.exif_turn,
        help="apply: store upright what EXIF turns; keep: leave it to the reader (default: %(default)s)")  # fmt: skip


def _add_filters(group: Any) -> None:
    add = group.add_argument
    add("--min-side-px", type=int, metavar="N", help="leave out images whose shorter side is smaller")
    add("--max-aspect", type=float, metavar="R", help="leave out images whose longer side is more than R shorter ones")
    add("--min-caption-chars", type=int, metavar="N", help="leave out shorter captions")
    add("--max-caption-words", type=int, metavar="N", help="leave out longer captions")
    add("--drop-duplicates", choices=DUPLICATES,
        help="keep the first of equal files (exact), or of pictures that look the same (perceptual)")  # fmt: skip
    add("--min-similarity", action="append", default=[], metavar="COLUMN=F",
        help="leave out rows with less than F in that column, such as similarity=0.25; may be given again")  # fmt: skip


def _scores(given: list[str]) -> tuple[list[tuple[str, float]], list[str]]:
    """(column, least value) of each --min-similarity, and what is wrong with the others."""
    scores, problems = [], []
    for text in given:
        column, _, number = text.rpartition("=")
        try:
            scores.append((column, float(number)))
        except ValueError:
            column = ""
        if not column:
            problems.append(f"--min-similarity is {text!r}; COLUMN=NUMBER is needed, such as similarity=0.25")
    return scores, problems


def _check(options: ShardOptions, problems: list[str]) -> None:
    """ConfigError with every option that is out of range."""
    if options.workers < 1:
        problems.append(f"--workers is {options.workers}; at least 1 is needed")
    if options.shard_samples < 1:
        problems.append(f"--shard-samples is {options.shard_samples}; at least 1 is needed")
    if not 0 <= options.max_reject_fraction <= 1:
        problems.append(f"--max-reject-fraction is {options.max_reject_fraction}; a number from 0 to 1 is needed")
    low, high = options.hash_range
    if not 0 <= low < high <= 1:
        problems.append(f"--hash-range is {low} {high}; 0 <= LOW < HIGH <= 1 is needed")
    if options.columns.image_name is not None and (wrong := check_image_name(options.columns.image_name)):
        problems.append(wrong)
    problems += options.policy.problems() + options.filters.problems() + options.patience.problems()
    if problems:
        raise ConfigError(problems)


def _summary(out: Path, outcome: ShardOutcome) -> str:
    """What stands, and a line for each reason that something was left out for."""
    manifest = outcome.manifest
    rejected, filtered = manifest.details["rejected"], manifest.details["filtered"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    lost = f", {sum(rejected.values())} rejected ({reasons})" if rejected else ", none rejected"
    state = f"{out} is finished already" if outcome.was_finished else f"{out} is finished"
    rows = [(reason, count, "damage") for reason, count in rejected.items()]
    rows += [(reason, count, "left out") for reason, count in filtered.items()]
    table = "".join(f"\n  {reason:<20} {count:>10}  {kind}" for reason, count, kind in rows)
    return (
        f"{state}: {manifest.samples} pairs in {len(manifest.shards)} shards{lost} (fingerprint {manifest.fingerprint})"
        f"{table}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
