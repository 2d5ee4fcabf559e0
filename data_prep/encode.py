"""Runs the frozen models over image shards once: python data_prep/encode.py --work WORK --target patches --split train

patches, image_embedding and text_features are made from WORK/images/SPLIT; causal from patches, by the trained stage
causal_qformer; codes from causal, by the trained stage codebook. Targets given together share one pass over the images.
Run again after an interruption: finished shards are kept, finished sets stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import load_recipe
from seed_dist.encode.targets import TARGETS
from seed_dist.errors import ConfigError


def main() -> None:
    arguments = _parser().parse_args()
    problems = [
        f"--{name} is {value}; at least 1 is needed"
        for name, value in (("batch-size", arguments.batch_size), ("threads", arguments.threads))
        if value < 1
    ]
    if problems:
        raise ConfigError(problems)
    recipe = load_recipe(arguments.recipe, arguments.set)

    from seed_dist.encode.workspace import (  # torch, when the options are known to be right
        EncodeRequest,
        encode_workspace,
    )

    request = EncodeRequest(
        recipe=recipe,
        work=arguments.work,
        targets=arguments.target,
        splits=arguments.split,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        device=arguments.device,
    )
    for folder, manifest in encode_workspace(request):
        kind = f"{manifest.details['dtype']} {list(manifest.details['shape'])}"
        print(f"{folder} is finished: {manifest.samples} x {kind} (fingerprint {manifest.fingerprint})", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", default="glyphs", metavar="NAME", help="recipe name or .yaml file (default: %(default)s)")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change an option of the recipe")
    add("--work", type=Path, required=True, metavar="DIR", help="workspace with images/SPLIT")
    add("--target", required=True, action="extend", nargs="+", choices=TARGETS, help="what to make; may be several")
    add("--split", required=True, action="extend", nargs="+", metavar="SPLIT", help="train, val, ...; may be several")
    add("--batch-size", type=int, default=256, metavar="N", help="samples per forward pass (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="batches decoded ahead (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
