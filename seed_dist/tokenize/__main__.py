"""Prints the ids of pictures by a trained tokenizer: python -m seed_dist.tokenize IMAGES... --tokenizer FOLDER

  python -m seed_dist.tokenize a.jpg photos runs/demo/images/test/shard-000000.tar --tokenizer runs/demo/codebook/export
  python -m seed_dist.tokenize photos --tokenizer runs/demo/codebook/export --paint painted > photos.tsv
  python -m seed_dist.tokenize --from-ids photos.tsv --tokenizer runs/demo/codebook/export --paint again --seed 1

IMAGES are picture files, folders of them (subfolders too), and webdataset shards (.tar). Each picture gives one line on
standard output: its name, a tab, its ids from left to right. With --paint, line N is also painted from its ids, as
OUT/N-NAME.png; equal ids give equal pictures. Such lines, kept in a file or piped in, are painted again by --from-ids.

Pictures are painted by the painter that FOLDER names. Guidance above 1 drives them away from what the picture of
--negative shows, by default from nothing in particular. Defaults are those of the painter's publication: 20 steps and
guidance 2 for the small painter, 50 and 7.5 for Stable Diffusion, 20 and 10 for Stable unCLIP. Nothing checks whether
a painted picture may offend.

A picture that cannot be read is named on standard error, the others go on, and the exit code is 3 in the end. FOLDER is
a stage's export (WORK/codebook/export) or what `python -m seed_dist.convert` made of a published tokenizer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.cli import run_command
from seed_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from seed_dist.models.pretrained import SeedTokenizer
    from seed_dist.tokenize.id_lines import Line
    from seed_dist.tokenize.painting import Painting
    from seed_dist.tokenize.pictures import Picture, Unreadable

_FOR_PAINTING = ("from_ids", "negative", "seed", "steps", "guidance")


def main() -> None:
    args = _parser().parse_args()
    if problems := _problems(args):
        raise ConfigError(problems)

    from seed_dist.tokenize.pictures import files_of

    _run(args, files_of(args.images))


def _run(args: argparse.Namespace, files: list[Path]) -> None:
    from seed_dist.obs.log import quieten_libraries

    quieten_libraries()

    import torch

    from seed_dist.models.pretrained import SeedTokenizer
    from seed_dist.tokenize.pictures import read_pictures

    tokenizer = SeedTokenizer.from_pretrained(args.tokenizer, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.batch_size = args.batch_size
    painting = _painting(args, tokenizer) if args.paint else None
    failed: list[Unreadable] = []
    lines = _encoded(tokenizer, read_pictures(files), failed) if files else _read_back(args.from_ids, tokenizer)
    done = 0
    for done, line in enumerate(lines, 1):
        if painting is not None:
            painting.paint(tokenizer, done, line)
        print(line, flush=True)
    if failed:
        raise DataError(
            f"{len(failed)} of {done + len(failed)} could not be read; they are named above, all others were "
            "tokenized. Mend them, or leave them away."
        )


def _encoded(
    tokenizer: SeedTokenizer, items: Iterator[Picture | Unreadable], failed: list[Unreadable]
) -> Iterator[Line]:
    """The lines of pictures, encoded in batches; those that cannot be read are named and added to `failed`."""
    from seed_dist.tokenize.id_lines import Line
    from seed_dist.tokenize.pictures import Picture

    def readable_ones() -> Iterator[Picture]:
        for item in items:
            if isinstance(item, Picture):
                yield item
            else:
                failed.append(item)
                print(f"left out: {item.name}: {item.reason}", file=sys.stderr, flush=True)

    pictures = readable_ones()
    for first in pictures:
        batch = list(chain([first], islice(pictures, tokenizer.batch_size - 1)))
        ids = tokenizer.encode([picture.image for picture in batch])
        yield from (Line(picture.name, row) for picture, row in zip(batch, ids, strict=True))


def _read_back(path: Path, tokenizer: SeedTokenizer) -> list[Line]:
    from seed_dist.tokenize.id_lines import read_lines

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--from-ids {path} cannot be read: {error}. Give lines that this command printed.") from error
    quantizer = tokenizer.quantizer
    return read_lines(text.split("\n"), str(path), quantizer.queries, quantizer.config.size)


def _painting(args: argparse.Namespace, tokenizer: SeedTokenizer) -> Painting:
    from seed_dist.tokenize.painting import Painting
    from seed_dist.tokenize.pictures import Unreadable, read_picture

    negative = None
    if args.negative:
        shown = read_picture(args.negative)
        if isinstance(shown, Unreadable):
            raise DataError(f"--negative {shown.name} cannot be read: {shown.reason}. Give another picture.")
        negative = tokenizer.encode(shown.image)
    return Painting(args.paint, args.seed or 0, args.steps, args.guidance, negative)


def _problems(args: argparse.Namespace) -> list[str]:
    problems = []
    if args.batch_size < 1:
        problems.append(f"--batch-size is {args.batch_size}; at least 1 is needed")
    if bool(args.images) == bool(args.from_ids):
        problems.append("give either IMAGES or --from-ids FILE")
    if args.paint and args.paint.exists() and not args.paint.is_dir():
        problems.append(f"--paint is {args.paint}, which is no folder; give one, it may be new")
    if unused := [name for name in _FOR_PAINTING if getattr(args, name) is not None and not args.paint]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        problems.append(f"{options} without --paint: nothing would be painted; add --paint OUT")
    if args.steps is not None and args.steps < 1:
        problems.append(f"--steps is {args.steps}; at least 1 is needed")
    if args.guidance is not None and not args.guidance >= 0:
        problems.append(f"--guidance is {args.guidance}; 0 or more is needed")
    return problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.tokenize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", type=Path, nargs="*", metavar="IMAGES", help="pictures, folders of pictures, shards")
    add("--tokenizer", type=Path, required=True, metavar="FOLDER", help="exported tokenizer")
    add("--batch-size", type=int, default=64, metavar="N", help="pictures at a time; no id depends on it (%(default)s)")
    add("--from-ids", type=Path, metavar="FILE", help="paint these lines instead of IMAGES; - for standard input")
    add("--paint", type=Path, metavar="OUT", help="folder for pictures painted from the ids")
    add("--negative", type=Path, metavar="PICTURE", help="what painted pictures are driven away from")
    add("--seed", type=int, metavar="N", help="of the noise that painting starts from; another one, another try (0)")
    add("--steps", type=int, metavar="N", help="of painting (the painter's default)")
    add("--guidance", type=float, metavar="X", help="1 paints the ids as they are, more exaggerates (the painter's)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
