"""Makes the weights again that stand in for downloaded ones: the small CLIP, the painter conditioned on it, the
Q-Former that stage 1 starts from, and the language model.

Each folder's train_log.jsonl is the log of the weights that ship with the package; they came from the defaults here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command

# Steps and batch size.
DEFAULTS = {"clip": (1200, 128), "painter": (4500, 32), "qformer": (1300, 128), "language": (600, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.glyphs.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=sorted(DEFAULTS))
    parser.add_argument("--out", type=Path, required=True, help="folder to write the weights and the log to")
    parser.add_argument("--clip", default="embedded:clip", help="the CLIP that painter and Q-Former work with")
    parser.add_argument("--start", metavar="FOLDER", help="painter: go on from the weights of this painter folder")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    steps, batch_size = DEFAULTS[args.model]
    size = (args.steps or steps, args.batch_size or batch_size, args.seed)
    if args.model == "clip":
        from seed_dist.glyphs.pretrain.clip import train_clip

        train_clip(args.out, *size)
    elif args.model == "painter":
        from seed_dist.glyphs.pretrain.painter import train_painter

        train_painter(args.out, args.clip, *size, start=args.start)
    elif args.model == "qformer":
        from seed_dist.glyphs.pretrain.qformer import train_qformer

        train_qformer(args.out, args.clip, *size)
    else:
        from seed_dist.glyphs.pretrain.language import train_language

        train_language(args.out, *size)


if __name__ == "__main__":
    sys.exit(run_command(main))
