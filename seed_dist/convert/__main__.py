"""Converts what others wrote into folders of this project, and back: python -m seed_dist.convert SOURCE OUT

A file becomes a folder, a folder becomes a file:

  python -m seed_dist.convert seed_quantizer.pt runs/published           the published tokenizer
  python -m seed_dist.convert blip2_pretrained.pth runs/blip2            what stage 1 starts from (backbones.qformer)
  python -m seed_dist.convert eva_vit_g.pth assets/eva_clip_g            BLIP-2's frozen ViT (backbones.image_encoder)
  python -m seed_dist.convert stage2.pth runs/mine --qformer stage1.pth  the published training's two checkpoints
  python -m seed_dist.convert runs/demo/codebook/export demo.pt          ours, under published names

An adapter that stage 3 exported becomes a folder that transformers loads by itself: LoRA merged into its base, the
image tokens in model and tokenizer, named as SEED-LLaMA's:

  python -m seed_dist.convert runs/demo/lora/export runs/merged

Every tensor is accounted for: taken over, carried along for the way back (the captioning and matching heads), or left
out with a line that says so (the frozen ViT). Names that are missing or unknown are an error that lists them. Sizes are
read from the tensors; the number of heads is in none of them, and taken to be width / 64 as in all published models
(width / 88 in the ViT).

Files are read as data: a .pt that would have to run code is refused. Nothing that exists is overwritten, and OUT is
complete or not there. Exit codes: 2 wrong options, 3 a file that cannot be used, 4 weights that do not fit together.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.config import BackboneConfig
from seed_dist.errors import ConfigError, DataError
from seed_dist.obs.log import quieten_libraries

_FOR_FILES = ("qformer", "heads", "decoder_heads", "head", "backbone")


def main() -> None:
    args = _parser().parse_args()
    backbones = _checked(args)

    from seed_dist.convert.sizes import Told  # torch, when the options are known to be right
    from seed_dist.convert.to_ours import ToOurs, convert_to_ours
    from seed_dist.convert.to_published import convert_to_published

    if args.source.is_dir():
        if _is_adapter(args.source):
            quieten_libraries()
            from seed_dist.convert.merged import convert_to_merged

            base = dict(item.split("=", 1) for item in args.backbone).get("language_model")
            lines = convert_to_merged(args.source, args.out, base, args.precision or "fp32")
        else:
            lines = convert_to_published(args.source, args.out)
    else:
        told = Told(args.heads, args.decoder_heads, args.head)
        lines = convert_to_ours(ToOurs(args.source, args.out, told, backbones, args.qformer))
    print("\n".join(lines))


def _checked(args: argparse.Namespace) -> BackboneConfig:
    """The named backbones. DataError or ConfigError with every option that cannot be meant."""
    for path in (args.source, args.qformer):
        if path is not None and not path.exists():
            raise DataError(f"{path} does not exist. Give a checkpoint file, or a folder of save_pretrained.")
    problems = [
        f"--{name.replace('_', '-')} is {value}; at least 1 is needed"
        for name in ("heads", "decoder_heads")
        if (value := getattr(args, name)) is not None and value < 1
    ]
    if args.source.is_dir():
        adapter = _is_adapter(args.source)
        given = [f"--{name.replace('_', '-')}" for name in _FOR_FILES if getattr(args, name)]
        problems += [
            f"{option} is for reading a file, but {args.source} is a folder; leave it away"
            for option in given
            if not (adapter and option == "--backbone")
        ]
    if args.precision and not _is_adapter(args.source):
        problems.append(f"--precision is for merging an adapter, but {args.source} is none; leave it away")
    names = [field.name for field in dataclasses.fields(BackboneConfig)]
    chosen = {}
    for item in args.backbone:
        name, equals, reference = item.partition("=")
        if name not in names or not equals or not reference:
            problems.append(f"--backbone {item!r} must be NAME=FOLDER with NAME one of {', '.join(names)}")
        elif _is_adapter(args.source) and name != "language_model":
            problems.append(f"--backbone {item!r}: an adapter has no backbone but language_model; leave it away")
        chosen[name] = reference
    if problems:
        raise ConfigError(problems)
    return BackboneConfig(**chosen)


def _is_adapter(source: Path) -> bool:
    """Whether a folder is stage 3's export, by the file that peft writes."""
    return (source / "adapter_config.json").is_file()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="file (.pt, .pth, .bin, .safetensors) or a stage's export/")
    add("out", type=Path, metavar="OUT", help="what to write: a folder for a file or an adapter, else a file")
    add("--qformer", type=Path, metavar="FILE", help="stage-1 checkpoint, where SOURCE holds stage 2 alone")
    add("--head", choices=("mlp", "reverse_qformer"), help="the head that SOURCE must have (default: either)")
    add("--heads", type=int, metavar="N", help="attention heads (default: width / 64, in a ViT width / 88)")
    add("--decoder-heads", type=int, metavar="N", help="those of the decoders (default: as in the Q-Former)")
    add("--precision", choices=("fp32", "fp16", "bf16"), help="of a merged model's weights (default: fp32)")
    explained = (
        "frozen model that the folder names: image_encoder, painter, ... (default: the embedded ones); for an adapter "
        "language_model=FOLDER, where its base is now"
    )
    add("--backbone", action="append", default=[], metavar="NAME=FOLDER", help=explained)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
