"""The conversation in a terminal: what is typed is said, lines that begin with / are commands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from seed_dist.chat.conversation import Picture
from seed_dist.chat.manner import Manner
from seed_dist.chat.session import MAX_UPLOAD_BYTES, Session
from seed_dist.errors import ConfigError, DataError, SeedDistError

HELP = """Write a line to say it, together with the pictures that were shown since the last one; an empty line shows
them without a word, which asks a model that was trained on captions for one.
  /image FILE          show a picture
  /paint TEXT          have the answer be a picture
  /ask TEXT            have the answer be words
  /codes [N]           the codes of picture N, or of the latest
  /edit I=CODE ...     change codes of the latest picture, counted from 1, and paint it
  /repaint [SEED]      paint the latest picture from its codes, with another seed another try
  /save                write conversation and pictures to the run directory
  /new                 begin again
  /help, /quit"""
_CODES_PER_LINE = 8


class Terminal:
    """`start` makes a new session. Every command gives lines to print."""

    def __init__(self, start: Callable[[], Session], manner: Manner) -> None:
        self._start, self._manner = start, manner
        self._session, self._waiting, self._seed = start(), list[int](), manner.seed
        self._commands: dict[str, Callable[[str], Iterable[str]]] = {
            "image": self._image, "paint": self._paint, "ask": self._ask, "codes": self._codes, "edit": self._edit,
            "repaint": self._repaint, "save": self._save, "new": self._new, "help": lambda _: [HELP],
        }  # fmt: skip

    def run(self, lines: Iterable[str], stop_at_error: bool) -> Iterator[str]:
        """What to print, line by line, until /quit or the end. Errors are printed, or raised with `stop_at_error`."""
        for line in lines:
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                for shown in self._obey(line.strip()):
                    yield _printable(shown)
            except SeedDistError as error:
                if stop_at_error:
                    raise
                yield f"error: {error}"

    def _obey(self, line: str) -> Iterable[str]:
        if not line.startswith("/"):
            return self._say(line, self._manner) if line or self._waiting else []
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise ConfigError([f"/{name} is no command; there are /{', /'.join(self._commands)} and /quit"])
        return self._commands[name](rest.strip())

    def _image(self, name: str) -> Iterator[str]:
        path = Path(name).expanduser()
        try:
            with path.open("rb") as file:
                data = file.read(MAX_UPLOAD_BYTES + 1)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}. Give a picture file.") from error
        picture = self._session.show(data)
        self._waiting.append(picture.number)
        yield f"[picture {picture.number}] {_row(picture)}"

    def _say(self, text: str, manner: Manner) -> Iterator[str]:
        turn = self._session.say([*self._waiting, text], manner)
        self._waiting.clear()
        for part in turn.answered:
            yield from [part] if isinstance(part, str) else self._painted(part)
        if not turn.answered:
            yield "(the model ended without a word)"
        yield from (f"note: {note}" for note in turn.notes)

    def _ask(self, text: str) -> Iterator[str]:
        return self._say(text, dataclasses.replace(self._manner, reply="words"))

    def _paint(self, text: str) -> Iterator[str]:
        return self._say(text, dataclasses.replace(self._manner, reply="picture"))

    def _codes(self, number: str) -> Iterator[str]:
        picture = self._session.picture(_whole(number)) if number else self._latest()
        yield f"[picture {picture.number}]"
        for first in range(0, len(picture.codes), _CODES_PER_LINE):
            row = enumerate(picture.codes[first : first + _CODES_PER_LINE], first + 1)
            yield "  ".join(f"{place:2d}={code:<5d}" for place, code in row).rstrip()

    def _edit(self, changes: str) -> Iterator[str]:
        picture = self._latest()
        codes = list(picture.codes)
        for change in changes.split() or [""]:
            found = re.fullmatch(r"(\d{1,9})=(-?\d{1,9})", change)
            if found is None or not 1 <= int(found[1]) <= len(codes):
                raise ConfigError([f"/edit {change!r} must be I=CODE with I from 1 to {len(codes)}"])
            codes[int(found[1]) - 1] = int(found[2])
        return self._painted(self._session.paint(picture.number, codes, self._seed), is_new=True)

    def _repaint(self, seed: str) -> Iterator[str]:
        self._seed = _whole(seed) if seed else self._seed
        return self._painted(self._session.paint(self._latest().number, None, self._seed), is_new=True)

    def _painted(self, picture: Picture, is_new: bool = False) -> Iterator[str]:
        yield f"[picture {picture.number}] {_row(picture)}"
        if not is_new:
            self._session.paint(picture.number, None, self._seed)
        yield f"painted: {self._session.save() / picture.file_name('painted')}"

    def _save(self, _: str) -> Iterator[str]:
        yield f"saved: {self._session.save()}"

    def _new(self, _: str) -> Iterator[str]:
        self._session = self._start()
        self._waiting.clear()
        yield "a new conversation"

    def _latest(self) -> Picture:
        return self._session.picture(max(1, len(self._session.conversation.pictures)))


def _row(picture: Picture) -> str:
    return " ".join(map(str, picture.codes))


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ConfigError([f"{text!r} is no whole number"])
    return int(text)


def _printable(line: str) -> str:
    """Without the controls that a model or a file name may hold: they would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in line)
