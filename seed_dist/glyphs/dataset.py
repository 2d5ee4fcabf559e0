"""Writes the embedded default data set as anybody's data: folders of NAME.jpg with the caption in NAME.txt beside it.

`python -m seed_dist.glyphs.dataset OUT` draws four splits from seeds of their own. JPEG, because libjpeg-turbo's
integer transform is bit-exact on every processor while zlib builds differ in the bytes they write.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seed_dist.cli import run_command
from seed_dist.fsio import PARTIAL_SUFFIX, fsync_folder
from seed_dist.glyphs.scenes import draw, sample_scene

SPLITS: dict[str, int] = {"train": 20_000, "val": 1_000, "test": 1_000, "heldout": 1_000}
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}


def write_split(folder: Path, split: str, scenes: int, seed: int) -> bool:
    """Draw `scenes` scenes into `folder`; False where it is complete already. Only `heldout` has held-out pairs."""
    if folder.is_dir():
        return False
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rng = random.Random(f"glyphs-{seed}-{split}")
    for i in tqdm(range(scenes), desc=f"draw {split}", unit="scene", leave=False):
        scene = sample_scene(rng, held_out=split == "heldout")
        draw(scene, rng).save(partial / f"{i:06d}.jpg", **JPEG)
        (partial / f"{i:06d}.txt").write_text(scene.caption() + "\n", encoding="utf-8")
    partial.rename(folder)
    fsync_folder(folder.parent)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m seed_dist.glyphs.dataset", description=__doc__)
    parser.add_argument("out", type=Path, help="folder that gets one sub-folder for each split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="share of the full sizes to draw, for quick trials (default %(default)s)",
    )
    args = parser.parse_args()
    for split, scenes in SPLITS.items():
        count = max(8, round(scenes * args.scale))
        drawn = write_split(args.out / split, split, count, args.seed)
        print(f"{split}: {count} scenes {'drawn' if drawn else 'were there already'} in {args.out / split}")


if __name__ == "__main__":
    sys.exit(run_command(main))
