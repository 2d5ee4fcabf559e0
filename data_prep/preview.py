"""Makes a page about a finished set of images, to look at before training: python data_prep/preview.py DIR OUT.html

One file without scripts, for any browser: pictures with their captions and sizes, how sides and captions are
distributed, and what was left out, by reason and with names.

  preview.py runs/big/images/train train.html
  preview.py runs/big/images/train train.html --samples 200 --seed 7
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.errors import ConfigError
from seed_dist.fsio import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a finished set of images")
    parser.add_argument("out", type=Path, metavar="OUT.html", help="the page")
    parser.add_argument("--samples", type=int, default=60, metavar="N", help="pictures shown (default: %(default)s)")
    parser.add_argument("--measured", type=int, default=2000, metavar="N",
        help="pictures whose sides are looked at (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="which ones are drawn (default: %(default)s)")
    given = parser.parse_args()
    if problems := [f"--{name} is {n}; at least 1 is needed" for name in ("samples", "measured")
                    if (n := getattr(given, name)) < 1]:  # fmt: skip
        raise ConfigError(problems)
    from seed_dist.eval.page.dataset import render_dataset

    write_text(given.out, render_dataset(given.folder, given.samples, given.measured, given.seed))
    print(f"{given.out} shows {given.folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
