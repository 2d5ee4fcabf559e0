"""`python -m seed_dist.glyphs.pretrain clip|painter|language --out FOLDER`: makes the frozen glyph backbones again."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m seed_dist.glyphs.pretrain", description=__doc__)
    parser.add_argument("model", choices=["clip"])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the weights and the log to")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from seed_dist.glyphs.pretrain.clip import train_clip

    train_clip(args.out, args.steps, args.batch_size, args.seed)


if __name__ == "__main__":
    main()
