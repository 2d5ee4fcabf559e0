"""Talk with what was trained, words and pictures both ways: python -m seed_dist.chat --llm FOLDER

  python -m seed_dist.chat --llm runs/demo/lora/export            in this terminal; /help says what can be typed
  python -m seed_dist.chat --llm runs/demo/lora/export --serve    on a page: drop pictures, edit codes, paint again
  printf '/image a.jpg\\n\\n/paint a red star on white\\n' | python -m seed_dist.chat --llm runs/demo/lora/export

FOLDER is what stage lora exported; a workspace's own tokenizer is taken (WORK/codebook/export) unless --tokenizer names
another. Or it is the merged model that seed_dist.convert made of it; that says nothing of a tokenizer, so --tokenizer
names the one whose codes it was trained on:

  python -m seed_dist.chat --llm runs/merged --tokenizer runs/demo/codebook/export

Pictures are painted by the painter that the tokenizer names; nothing checks whether one may offend.

A model that was trained on captions alone, as by this project, goes on where you stop: a picture gets its caption, a
caption its picture, and a text behind a picture is how the caption begins ("a photo of"). Each turn is then best by
itself, which is --remember 0. Models that were trained on questions or on conversations want --template and a memory.

The page is served on 127.0.0.1 alone, at an address with a secret in it. For a machine that you reach by ssh, forward
the same port: ssh -L 8765:127.0.0.1:8765 HOST. Pictures of up to 20 MB are taken in. Only --run is ever written to, and
only when you save, or paint in a terminal.

Read from a pipe or a file, the first line that cannot be obeyed ends the command: exit code 2 wrong options, commands
or codes, 3 a picture or model that cannot be used, 4 a tokenizer and a model that do not belong together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.chat.conversation import TEMPLATES
from seed_dist.cli import run_command
from seed_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from seed_dist.chat.manner import Manner
    from seed_dist.chat.session import Session

_BACKBONES = ("language_model", "image_encoder", "painter")
_PORT = 8765


def main() -> None:
    args = _parser().parse_args()
    manner, backbones = _checked(args)
    llm, tokenizer, run = _folders(args)

    from seed_dist.obs.log import quieten_libraries

    quieten_libraries()

    from seed_dist.chat.engine import Engine, Painting
    from seed_dist.chat.session import Session

    engine = Engine.open(llm, tokenizer, backbones, args.max_tokens, Painting(args.steps, args.guidance))

    def start() -> Session:
        return Session(engine, TEMPLATES[args.template], run)

    if args.serve:
        _serve(start, manner, args.port)
    else:
        _talk(start, manner)


def _serve(start: Callable[[], Session], manner: Manner, port: int) -> None:
    from seed_dist.chat.api import Api
    from seed_dist.chat.server import ChatServer

    with ChatServer(Api(start, manner), port) as server:
        print(f"open {server.url}\nCtrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", flush=True)


def _talk(start: Callable[[], Session], manner: Manner) -> None:
    from seed_dist.chat.terminal import HELP, Terminal

    is_person = sys.stdin.isatty()
    if is_person:
        print(HELP, flush=True)
    for line in Terminal(start, manner).run(_typed() if is_person else _piped(), stop_at_error=not is_person):
        print(line, flush=True)


def _piped() -> Iterator[str]:
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is no text: {error}. Pipe lines of UTF-8 in.") from error


def _typed() -> Iterator[str]:
    """Lines as a person types them, with the arrow keys of readline."""
    import readline  # noqa: F401 - `input` uses it

    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _folders(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Language model, tokenizer and run directory. DataError says what is missing and what makes it."""
    llm, work = args.llm, args.llm.parent.parent
    is_workspace = args.llm.parts[-2:] == ("lora", "export")
    if not llm.is_dir():
        raise DataError(_missing("--llm", llm, work if is_workspace else Path("WORK"), "lora"))
    if args.tokenizer is None and not is_workspace:
        raise ConfigError(
            [
                f"--llm is {llm}, which is not WORK/lora/export, so where its tokenizer is cannot be known; give "
                "--tokenizer too: the export of stage codebook whose codes it was trained on, WORK/codebook/export"
            ]
        )
    tokenizer = args.tokenizer or work / "codebook" / "export"
    if not tokenizer.is_dir():
        raise DataError(_missing("--tokenizer", tokenizer, work, "codebook"))
    return llm, tokenizer, args.run or (work if is_workspace else llm.parent) / "chat"


def _missing(option: str, folder: Path, work: Path, stage: str) -> str:
    found = "is a file" if folder.exists() else "is not there"
    return (
        f"{option}: {folder} {found}. Give the export of stage {stage}, WORK/{stage}/export. It is made by: "
        f"python -m seed_dist.train --recipe NAME --work {work} --stage {stage}; for a first look, by: make demo"
    )


def _checked(args: argparse.Namespace) -> tuple[Manner, dict[str, str]]:
    """ConfigError with every option that cannot be meant."""
    from seed_dist.chat.manner import manner_of

    problems, backbones, manner = [], {}, None
    for item in args.backbone:
        name, _, reference = item.partition("=")
        if name not in _BACKBONES or not reference:
            problems.append(f"--backbone {item!r} must be NAME=FOLDER with NAME one of {', '.join(_BACKBONES)}")
        backbones[name] = reference
    if args.run and args.run.exists() and not args.run.is_dir():
        problems.append(f"--run is {args.run}, which is no folder; give one, it may be new")
    if args.port is not None and not args.serve:
        problems.append("--port without --serve: nothing would be served; add --serve")
    args.port = _PORT if args.port is None else args.port
    for name, value, low, high in (("port", args.port, 0, 65535), ("max-tokens", args.max_tokens, 1, 4096)):
        if not low <= value <= high:
            problems.append(f"--{name} is {value}; {low} to {high} are allowed")
    if args.steps is not None and not 1 <= args.steps <= 1000:
        problems.append(f"--steps is {args.steps}; 1 to 1000 are allowed")
    if args.guidance is not None and not 0 <= args.guidance <= 100:
        problems.append(f"--guidance is {args.guidance}; 0 to 100 are allowed")
    try:
        manner = manner_of({name: getattr(args, name) for name in ("remember", "temperature", "top_p", "seed")})
    except ConfigError as error:
        problems += [f"--{problem.replace('_', '-', 1)}" for problem in error.problems]
    if problems or manner is None:
        raise ConfigError(problems)
    return manner, backbones


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--llm", type=Path, required=True, metavar="FOLDER", help="export of stage lora, or a merged model")
    add("--tokenizer", type=Path, metavar="FOLDER", help="export of stage codebook (default: of the workspace)")
    add("--run", type=Path, metavar="DIR", help="where conversations are saved (default: WORK/chat)")
    add("--serve", action="store_true", help="serve a page instead of talking here")
    add("--port", type=int, metavar="N", help=f"of the page; 0 for any that is free ({_PORT})")
    explained = "plain: what is said as it stands; question: as SEED-OPT was asked; vicuna: as SEED-LLaMA (%(default)s)"
    add("--template", choices=tuple(TEMPLATES), default="plain", help=explained)
    add("--remember", type=int, default=0, metavar="N", help="earlier turns that the model is shown (%(default)s)")
    add("--temperature", type=float, default=0.0, metavar="X", help="0 is the likeliest answer (%(default)s)")
    add("--top-p", type=float, default=1.0, metavar="P", help="share of the probability to draw from (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of drawn answers and of painting (%(default)s)")
    add("--max-tokens", type=int, default=128, metavar="N", help="of an answer, words and codes (%(default)s)")
    add("--steps", type=int, metavar="N", help="of painting (the painter's default)")
    add("--guidance", type=float, metavar="X", help="of painting (the painter's default)")
    explained = f"where a frozen model is, if no longer where it was in training: {', '.join(_BACKBONES)}"
    add("--backbone", action="append", default=[], metavar="NAME=FOLDER", help=explained)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
