"""The options of `python -m seed_dist.eval --suite`, and what they ask for. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from seed_dist.errors import ConfigError
from seed_dist.suites.places import Places
from seed_dist.suites.prompts import CAPTION_PROMPTS, PROMPTS
from seed_dist.suites.selection import JUDGES, PAINTED_OF_WORKSPACE, PROTOCOLS, SUITES, Options
from seed_dist.testsets.published import PUBLISHED


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """What is to be measured. `chunk`: examples per file of records; `limit`: of each set the first so many;
    `painted`: of these so many for suites that paint, 0 for all, None for `selection.measured_examples`' default.
    """

    suites: tuple[str, ...]
    data: tuple[str, ...]
    places: Places
    out: Path
    options: Options
    drawn: Bootstrap
    chunk: int = 64
    limit: int | None = None
    batch_size: int = 64
    painted: int | None = None


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """The options that only `--suite` reads."""
    add = parser.add_argument_group("suites").add_argument
    add(
        "--run",
        type=Path,
        metavar="DIR",
        help="workspace with finished stages; WORK/STAGE: up to that stage. Under torchrun, which takes --run for an "
        "option of its own, write --work: it means the same here",
    )
    add("--tokenizer", type=Path, metavar="PATH", help="exported tokenizer, or stage 1's export, instead of the run's")
    add("--llm", type=Path, metavar="PATH", help="export of stage lora, or a merged model, instead of the run's")
    add(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="scores pictures: clip=FOLDER (default: the generation encoder), inception=FILE, lpips=FILE; repeatable",
    )
    add("--steps", type=int, metavar="N", help="of painting (the painter's default)")
    add("--guidance", type=float, metavar="X", help="of painting (the painter's default)")
    add("--resize", choices=("clean", "legacy"), default="clean", help="of pictures for FID (%(default)s)")
    add("--force-image", action="store_true", help="generation: let the language model write nothing but an image")
    add("--peer", action="append", default=[], metavar="PATH", help="open_clip folder to measure beside; repeatable")
    add(
        "--data",
        action="append",
        default=[],
        metavar="SET",
        help="workspace:SPLIT of --run, workspace:FOLDER:SPLIT, or NAME:FOLDER[:SPLIT] of a public set; repeatable",
    )
    add("--protocol", choices=PROTOCOLS, default="seed", help="of captions and pictures, see docs (%(default)s)")
    add("--prompt", choices=PROMPTS, default="seed-opt", help="of suite vqa (%(default)s)")
    add("--caption-prompt", choices=CAPTION_PROMPTS, default="none", help="of suite caption (%(default)s)")
    add("--beams", type=int, default=1, metavar="N", help="of the search for a text; 1 is greedy (%(default)s)")
    add("--limit", type=int, metavar="N", help="the first N examples of each set (default: all)")
    add(
        "--painted",
        type=int,
        metavar="N",
        help=f"examples that are painted, evenly spaced; 0: all (of a workspace {PAINTED_OF_WORKSPACE}, otherwise all)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of whatever is drawn (%(default)s)")
    add("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (%(default)s)")
    add(
        "--chunk",
        type=int,
        default=64,
        metavar="N",
        help="examples per file of records (%(default)s)",
    )
    add("--batch-size", type=int, default=64, metavar="N", help="examples that a model sees at a time (%(default)s)")


def request_of(args: argparse.Namespace) -> Request:
    """What the options ask for; ConfigError with everything that is wrong with them."""
    run = args.run or args.work
    suites = tuple(dict.fromkeys(args.suite.split(",")))
    problems = [
        f"--suite {name!r} is not known; these are: {', '.join(SUITES)}" for name in suites if name not in SUITES
    ]
    if run is None and args.tokenizer is None:
        problems.append("neither --run nor --tokenizer is given; name a workspace or an exported tokenizer")
    folders = {"run": run, "tokenizer": args.tokenizer, "llm": args.llm}
    problems += [f"--{name} {at} is no folder" for name, at in folders.items() if at is not None and not at.is_dir()]
    if not args.data:
        problems.append("--data is needed: workspace:SPLIT, or NAME:FOLDER[:SPLIT]")
    known = ("workspace", *PUBLISHED)
    problems += [
        f"--data {text}: there is no set {name!r}; there are {', '.join(known)}"
        for text in args.data
        if (name := text.partition(":")[0]) not in known
    ]
    counts = {
        option: getattr(args, option) for option in ("steps", "limit", "resamples", "chunk", "batch_size", "beams")
    }
    too_few = {option.replace("_", "-"): n for option, n in counts.items() if n is not None and n < 1}
    problems += [f"--{option} is {n}; at least 1 is needed" for option, n in too_few.items()]
    if args.painted is not None and args.painted < 0:
        problems.append(f"--painted is {args.painted}; 0 paints all examples, N so many")
    names = [Path(peer).name for peer in args.peer]
    if len(set(names)) < len(names):
        problems.append(
            f"--peer names {', '.join(names)}: two would have the same row; give folders of different names"
        )
    judges = dict(text.partition("=")[::2] for text in args.judge)
    problems += [f"--judge {name} is not NAME=PATH of {', '.join(JUDGES)}" for name in judges if name not in JUDGES]
    problems += [
        f"--judge {n}={judges[n]} is no file" for n in JUDGES[1:] if n in judges and not Path(judges[n]).is_file()
    ]
    if args.out is None and run is None:
        problems.append("--out is needed where no --run is given: a folder for receipt and records")
    if problems:
        raise ConfigError(problems)
    return Request(
        suites,
        tuple(dict.fromkeys(args.data)),
        _places(args, run, judges),
        args.out or run / "suites",
        _options(args),
        Bootstrap(args.resamples, args.seed),
        args.chunk,
        args.limit,
        args.batch_size,
        args.painted,
    )


def _places(args: argparse.Namespace, run: Path | None, judges: dict[str, str]) -> Places:
    return Places(
        run,
        args.tokenizer,
        args.llm,
        judges.get("clip"),
        tuple(args.peer),
        Path(judges["inception"]) if "inception" in judges else None,
        Path(judges["lpips"]) if "lpips" in judges else None,
    )


def _options(args: argparse.Namespace) -> Options:
    return Options(
        args.protocol,
        args.seed,
        args.prompt,
        args.caption_prompt,
        args.beams,
        args.steps,
        args.guidance,
        args.resize,
        args.force_image,
    )
