"""Fetches the backbones that a recipe names, once, on a node with internet; and checks them: python -m seed_dist.assets

  python -m seed_dist.assets fetch --recipe seed_v2                        all that the recipe names by hub reference
  python -m seed_dist.assets fetch --recipe seed_v2 --only image_encoder   one of them
  python -m seed_dist.assets fetch hub:OWNER/NAME@REVISION                 any other
  python -m seed_dist.assets verify                                        read every fetched file again, compare

They lie in SEED_DIST_ASSETS (by default the folder `assets` of SEED_DIST_CACHE, or of ~/.cache/seed_dist), each with an
asset.json: reference, licence, every file with its size and SHA-256. Jobs only look there and never ask the network. An
interrupted fetch goes on where it was; nothing unfinished is ever used.

Exit codes: 1 connection failed, 2 wrong options or nothing of that name, 3 missing or changed files, 4 wrong checksums.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from seed_dist.assets.location import assets_folder
from seed_dist.assets.manifest import MANIFEST_NAME, AssetManifest, differences, read_manifest
from seed_dist.assets.reference import HubReference, hub_reference
from seed_dist.assets.selection import has_weights
from seed_dist.cli import run_command
from seed_dist.config import BackboneConfig, load_recipe, recipe_names
from seed_dist.errors import ConfigError, DataError
from seed_dist.fsio import PARTIAL_SUFFIX

OPTIONS = [field.name for field in dataclasses.fields(BackboneConfig)]


def main() -> None:
    args = _parser().parse_args()
    named, elsewhere = _named(args)
    for line in elsewhere:
        print(line)
    if args.command == "fetch":
        _fetch(named)
    else:
        _verify(named if args.references or args.recipe else _all_fetched())


def _named(args: argparse.Namespace) -> tuple[list[HubReference], list[str]]:
    """The hub references that are meant, each once, and a line for each backbone that comes from elsewhere."""
    if args.only and not args.recipe:
        raise ConfigError([f"--only chooses among a recipe's backbones; add --recipe ({', '.join(recipe_names())})"])
    if args.command == "fetch" and not args.recipe and not args.references:
        raise ConfigError(["nothing is named; give --recipe RECIPE, or hub:OWNER/NAME@REVISION"])
    found: list[HubReference] = []
    elsewhere: list[str] = []
    problems: list[str] = []
    options: dict[str, str | None] = {f"{reference!r}": reference for reference in args.references}
    if args.recipe:
        backbones = dataclasses.asdict(load_recipe(args.recipe, args.set).backbones)
        options |= {name: backbones[name] for name in args.only or OPTIONS}
    for name, reference in options.items():
        try:
            hub = hub_reference(reference or "")
        except ConfigError as error:
            problems += error.problems
            continue
        if hub is None and name not in OPTIONS:
            problems.append(f"{name} is no hub reference; the form is hub:OWNER/NAME@REVISION")
        elif hub is None:
            elsewhere.append(f"{name:<20} {reference or 'none'}: not from the hub")
        else:
            found.append(hub)
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(found)), elsewhere


def _fetch(named: list[HubReference]) -> None:
    from seed_dist.assets.hub import fetch  # the client takes a second; options are right by now

    for hub in named:
        manifest, new = fetch(hub)
        print(f"{'fetched' if new else 'complete'}  {_described(manifest)}")
        print(f"          in {hub.folder}")
        if manifest.licence is None:
            print("          its model card names no licence: ask its authors before you use it or pass it on")
        if not has_weights(manifest.files):
            print("          it has no weights that are read here (safetensors, or PyTorch's .bin)")


def _verify(named: list[HubReference]) -> None:
    """DataError with every file of every asset that is missing, changed or did not come with it."""
    problems = []
    for hub in named:
        manifest = read_manifest(hub.folder)
        if manifest is None:
            problems.append(f"{hub} is not fetched (looked for {hub.folder}): {hub.fetch_command}")
        elif manifest.reference != str(hub):
            problems.append(f"{hub.folder} is {manifest.reference}, not {hub}: {hub.fetch_command}")
        elif found := differences(hub.folder, manifest, hashed=True):
            problems.append(f"{hub}, to be mended by {hub.fetch_command}: {'; '.join(found)}")
        else:
            print(f"verified  {_described(manifest)}")
    if problems:
        raise DataError("\n  - ".join([f"{len(problems)} asset(s) are not what they must be:", *problems]))
    if not named:
        print(f"nothing is fetched in {assets_folder()}")


def _all_fetched() -> list[HubReference]:
    folders = sorted(path.parent for path in assets_folder().glob(f"*--*/*/{MANIFEST_NAME}"))
    finished = [folder for folder in folders if not folder.name.endswith(PARTIAL_SUFFIX)]
    return [HubReference(folder.parent.name.replace("--", "/", 1), folder.name) for folder in finished]


def _described(manifest: AssetManifest) -> str:
    size = sum(file.size_bytes for file in manifest.files.values())
    licence = manifest.licence or "not stated"
    return f"{manifest.reference}: {len(manifest.files)} files, {size / 1e9:.3f} GB, licence {licence}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.assets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fetch|verify")
    for name, text in (("fetch", "get what is named"), ("verify", "compare files with their manifests; default: all")):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add = command.add_argument
        add("references", nargs="*", metavar="REFERENCE", help="hub:OWNER/NAME@REVISION")
        add("--recipe", metavar="RECIPE", help=f"{', '.join(recipe_names())}, or a .yaml file")
        add("--only", action="append", choices=OPTIONS, help="one of the recipe's backbones; may be repeated")
        add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
