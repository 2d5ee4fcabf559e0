"""Prints the ids of pictures by a trained tokenizer: python -m seed_dist.tokenize IMAGES... --tokenizer FOLDER

  python -m seed_dist.tokenize a.jpg photos runs/demo/images/test/shard-000000.tar --tokenizer runs/demo/codebook/export
  python -m seed_dist.tokenize photos --tokenizer runs/demo/codebook/export --paint painted

IMAGES are picture files, folders of them (subfolders too), and webdataset shards (.tar). Each picture gives one line on
standard output: its name, a tab, its ids from left to right. With --paint, line N is also painted from its ids, as
OUT/N-NAME.png; equal ids give equal pictures.

A picture that cannot be read is named on standard error, the others go on, and the exit code is 3 in the end. FOLDER is
a stage's export (WORK/codebook/export) or what `python -m seed_dist.convert` made of a published tokenizer.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.cli import run_command
from seed_dist.errors import ConfigError, DataError
from seed_dist.fsio import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

    from seed_dist.models.pretrained import SeedTokenizer
    from seed_dist.tokenize.pictures import Picture

_STEM_LENGTH = 60


def main() -> None:
    args = _parser().parse_args()
    if args.batch_size < 1:
        raise ConfigError([f"--batch-size is {args.batch_size}; at least 1 is needed"])
    if args.paint and args.paint.exists() and not args.paint.is_dir():
        raise ConfigError([f"--paint is {args.paint}, which is no folder; give one, it may be new"])

    from seed_dist.tokenize.pictures import files_of

    files = files_of(args.images)
    try:
        _tokenize(args, files)
    except BrokenPipeError:  # `| head` has seen enough; the interpreter's own last flush must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tokenize(args: argparse.Namespace, files: list[Path]) -> None:
    from seed_dist.obs.log import quieten_libraries

    quieten_libraries()

    import torch

    from seed_dist.models.pretrained import SeedTokenizer
    from seed_dist.tokenize.pictures import Picture, read_pictures

    tokenizer = SeedTokenizer.from_pretrained(args.tokenizer, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.batch_size = args.batch_size
    failed, done = 0, 0

    def readable_ones() -> Iterator[Picture]:
        nonlocal failed
        for item in read_pictures(files):
            if isinstance(item, Picture):
                yield item
            else:
                failed += 1
                print(f"left out: {item.name}: {item.reason}", file=sys.stderr, flush=True)

    pictures = readable_ones()
    for first in pictures:
        batch = list(chain([first], islice(pictures, args.batch_size - 1)))
        done = _show(tokenizer, batch, done, args.paint)
    if failed:
        raise DataError(
            f"{failed} of {done + failed} could not be read; they are named above, all others were tokenized. Mend "
            "them, or leave them away."
        )


def _show(tokenizer: SeedTokenizer, batch: list[Picture], done: int, folder: Path | None) -> int:
    """Print, and paint, one batch after `done` pictures; the value is how many there are now."""
    ids = tokenizer.encode([picture.image for picture in batch])
    for number, (picture, row) in enumerate(zip(batch, ids, strict=True), done + 1):
        if folder is not None:
            _paint(tokenizer, row, folder / f"{number:06d}-{_stem(picture.name)}.png")
        print(f"{picture.name}\t{' '.join(map(str, row.tolist()))}", flush=True)
    return done + len(batch)


def _paint(tokenizer: SeedTokenizer, ids: Tensor, path: Path) -> None:
    """One by one: what is painted then depends on the ids alone, not on their place in a batch."""
    (picture,) = tokenizer.paint(ids[None])
    with atomic_file(path) as file:
        picture.save(file, "PNG")


def _stem(name: str) -> str:
    """The last part of a name, without its ending, as a file name that every disk takes."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:_STEM_LENGTH]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.tokenize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", type=Path, nargs="+", metavar="IMAGES", help="pictures, folders of pictures, shards")
    add("--tokenizer", type=Path, required=True, metavar="FOLDER", help="exported tokenizer")
    add("--paint", type=Path, metavar="OUT", help="folder for pictures painted from the ids")
    add("--batch-size", type=int, default=64, metavar="N", help="pictures at a time; no id depends on it (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
