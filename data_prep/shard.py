"""Turns images with captions into shards: python data_prep/shard.py SOURCE OUT

SOURCE is a folder of images with .txt files beside them, or a CSV, TSV, JSONL or parquet table (or a folder with
tables) of image paths or bytes and captions. Run again after an interruption: finished shards are kept, a finished
OUT stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.data.sharding import ShardOptions, ShardOutcome, shard_source
from seed_dist.data.table_source import Columns
from seed_dist.errors import ConfigError


def main() -> None:
    arguments = _parser().parse_args()
    options = ShardOptions(
        shard_samples=arguments.shard_samples,
        max_reject_fraction=arguments.max_reject_fraction,
        workers=arguments.workers,
        captions=arguments.captions,
        columns=Columns(arguments.image_column, arguments.caption_column),
        hash_range=(arguments.hash_range[0], arguments.hash_range[1]),
    )
    _check(options)
    outcome = shard_source(arguments.source, arguments.out, options)
    print(_summary(arguments.out, outcome))


def _parser() -> argparse.ArgumentParser:
    defaults = ShardOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder or table")
    add("out", type=Path, metavar="OUT", help="folder for the shards")
    add("--captions", type=Path, metavar="FILE", help="the table with the captions, where SOURCE does not tell")
    add("--image-column", metavar="NAME", help="column of the image path or bytes (default: found by its name)")
    add("--caption-column", metavar="NAME", help="column of the caption (default: found by its name)")
    add("--workers", type=int, default=defaults.workers, metavar="N", help="processes (default: %(default)s)")
    add(
        "--shard-samples",
        type=int,
        default=defaults.shard_samples,
        metavar="N",
        help="pairs per shard (default: %(default)s)",
    )
    add(
        "--max-reject-fraction",
        type=float,
        default=defaults.max_reject_fraction,
        metavar="F",
        help="share of unusable pairs, 0 to 1, above which the job stops (default: %(default)s)",
    )
    add(
        "--hash-range",
        type=float,
        nargs=2,
        default=[0.0, 1.0],
        metavar=("LOW", "HIGH"),
        help="keep the pairs whose name hashes into LOW..HIGH of 0..1: splits of one source (default: all)",
    )
    return parser


def _check(options: ShardOptions) -> None:
    """ConfigError with every option that is out of range."""
    problems = []
    if options.workers < 1:
        problems.append(f"--workers is {options.workers}; at least 1 is needed")
    if options.shard_samples < 1:
        problems.append(f"--shard-samples is {options.shard_samples}; at least 1 is needed")
    if not 0 <= options.max_reject_fraction <= 1:
        problems.append(f"--max-reject-fraction is {options.max_reject_fraction}; a number from 0 to 1 is needed")
    low, high = options.hash_range
    if not 0 <= low < high <= 1:
        problems.append(f"--hash-range is {low} {high}; 0 <= LOW < HIGH <= 1 is needed")
    if problems:
        raise ConfigError(problems)


def _summary(out: Path, outcome: ShardOutcome) -> str:
    manifest = outcome.manifest
    rejected = manifest.details["rejected"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    lost = f", {sum(rejected.values())} rejected ({reasons})" if rejected else ", none rejected"
    state = f"{out} is finished already" if outcome.was_finished else f"{out} is finished"
    return (
        f"{state}: {manifest.samples} pairs in {len(manifest.shards)} shards{lost} (fingerprint {manifest.fingerprint})"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
