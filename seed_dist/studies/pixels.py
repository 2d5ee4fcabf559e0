"""Trains the pixel tokenizer of the study `pixels` on a workspace's pictures and encodes them.

  python -m seed_dist.studies.pixels --recipe glyphs --work runs/studies/pixels/seed-0 --steps 600

Codebook size, width, loss weights and revival are the recipe's, as is the seed. Writes WORK/codebook/export, which the
stage lora takes in the place of a SEED tokenizer, and WORK/features/codes/SPLIT. What is finished is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import load_recipe
from seed_dist.errors import ConfigError
from seed_dist.obs.log import get_logger


def main() -> None:
    args = _parse()
    if args.steps < 1:
        raise ConfigError([f"--steps is {args.steps}, but at least 1 step is needed"])
    recipe = load_recipe(args.recipe, args.set)

    from seed_dist.studies.pixel_training import encode_pictures, train_pixels  # torch, when the options are right

    export = args.work / "codebook" / "export"
    if export.is_dir():
        get_logger().info("the pixel tokenizer is already finished: %s", export)
    else:
        train_pixels(recipe, args.work, args.steps, export)
    for split in args.split:
        manifest = encode_pictures(args.work, split, export)
        print(f"{split}: {manifest.samples} pictures as {manifest.details['shape'][0]} codes each")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.studies.pixels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", required=True, help="name of a recipe, or a .yaml file")
    parser.add_argument("--work", required=True, type=Path, help="workspace folder with images/SPLIT")
    parser.add_argument("--steps", required=True, type=int, help="optimizer steps of 64 pictures")
    parser.add_argument(
        "--split", action="extend", nargs="+", help="splits to encode, for example --split train val test", default=[]
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
