"""Looks through foreign webdatasets before they are used: python data_prep/lint.py TAR_OR_DIR [TAR_OR_DIR ...]

Says what would be lost or misread, by data_prep/shard.py and by webdataset itself, with counts and the first names:
names that come twice or hold several dots, members that do not stand together, pictures without caption and captions
without picture, links, pickles and other unknown members, captions that are not UTF-8, tars that are cut.

  lint.py downloads                all *.tar in that folder
  lint.py downloads --decode       and decode every picture

Exit code: 0 nothing found, 3 something found. Nothing is changed, unpacked or executed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.data.lint import Report, lint_tar
from seed_dist.data.progress import progress_bar
from seed_dist.errors import DataError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="TAR_OR_DIR", help="tars, or folders of them")
    parser.add_argument("--decode", action="store_true", help="decode every picture to its last pixel")
    given = parser.parse_args()
    tars = [tar for path in given.paths for tar in _tars(path)]
    report = Report()
    with progress_bar(len(tars), 0, "looking through", "tars") as bar:
        for tar in tars:
            lint_tar(tar, report, decode=given.decode)
            bar.update(1)
    print("\n".join(report.lines()))
    if report.counts:
        raise DataError(
            f"{report.counts.total()} findings in {len(tars)} tars. data_prep/shard.py takes what is usable of them "
            "and lists the rest; plain webdataset needs tars that are packed anew."
        )


def _tars(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.glob("*.tar"), key=os.fsencode)
    if not found:
        kind = "holds no *.tar" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {kind}. Give a tar, or a folder of tars.")
    return found


if __name__ == "__main__":
    sys.exit(run_command(main))
