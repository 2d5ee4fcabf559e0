"""One person's conversation with the models: what may come in, what is kept of it, and where it is saved."""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from seed_dist.chat.conversation import Conversation, Part, Picture, Template, Turn
from seed_dist.chat.engine import Engine
from seed_dist.chat.manner import SEEDS, Manner
from seed_dist.data.codec import with_checked
from seed_dist.errors import ConfigError, DataError
from seed_dist.fsio import atomic_file, write_json
from seed_dist.pixels import UnusableImageError, as_rgb

MAX_UPLOAD_BYTES = 20_000_000
MAX_TEXT = 4000  # characters of a turn
MAX_PARTS = 16  # texts and pictures of a turn
MAX_TURNS, MAX_PICTURES = 100, 40
TRANSCRIPT = "conversation.json"
_SHOWN_PX = 512  # longest side of the copy that is kept of a given picture


class Session:
    """Calls that change it wait for each other. Errors leave it as it was."""

    def __init__(self, engine: Engine, template: Template, run: Path) -> None:
        self.engine, self.conversation = engine, Conversation(template)
        self._run, self._folder = run, run / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{secrets.token_hex(3)}"
        self._busy = threading.Lock()

    def show(self, data: bytes) -> Picture:
        """Take in a picture file. DataError where it is too large, or no picture that can be decoded safely."""
        if len(data) > MAX_UPLOAD_BYTES:
            raise DataError(f"the picture has {len(data)} bytes; at most {MAX_UPLOAD_BYTES} are allowed.")
        with self._busy:
            self._check_room(pictures=1)
            try:
                picture = with_checked(data, as_rgb)
            except UnusableImageError as error:
                raise DataError(f"the picture cannot be used: {error.reason}: {error}. Give another one.") from error
            codes = self.engine.see(picture)
            picture.thumbnail((_SHOWN_PX, _SHOWN_PX))
            return self.conversation.add_picture(codes, _png(picture))

    def say(self, parts: Sequence[str | int], manner: Manner) -> Turn:
        """Texts and numbers of pictures -> the turn with its answer; pictures in it are not painted yet."""
        with self._busy:
            asked = self._checked(parts)
            answer = self.engine.answer(self.conversation, asked, manner)
            made = sum(not isinstance(part, str) for part in answer.parts)
            self._check_room(made)
            answered = [part if isinstance(part, str) else self.conversation.add_picture(part) for part in answer.parts]
            turn = Turn(tuple(asked), tuple(answered), answer.notes)
            self.conversation.turns.append(turn)
            return turn

    def paint(self, number: int, codes: Sequence[int] | None = None, seed: int = 0) -> Picture:
        """Paint a picture from its codes, or from `codes`, which take their place: later turns see the edited ones."""
        with self._busy:
            picture = self.picture(number)
            codes = picture.codes if codes is None else self._codes(codes)
            if not 0 <= seed < SEEDS:
                raise ConfigError([f"seed is {seed}; 0 to {SEEDS - 1} are allowed"])
            picture.painted = _png(self.engine.paint(codes, seed))
            picture.codes, picture.painted_times = tuple(codes), picture.painted_times + 1
            return picture

    def picture(self, number: int) -> Picture:
        known = len(self.conversation.pictures)
        if not 1 <= number <= known:
            raise DataError(f"there is no picture {number}; {f'1 to {known} exist' if known else 'none exists yet'}.")
        return self.conversation.pictures[number - 1]

    def save(self) -> Path:
        """Write the conversation and its pictures to a folder of its own below the run's, for the owner alone."""
        with self._busy:
            self._run.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            for picture in self.conversation.pictures:
                for kind, data in (("given", picture.given), ("painted", picture.painted)):
                    if data is not None:
                        with atomic_file(self._folder / picture.file_name(kind)) as file:
                            file.write(data)
            write_json(self._folder / TRANSCRIPT, {**self.state(), "models": self.engine.facts()})
            return self._folder

    def state(self) -> dict[str, Any]:
        """All of it as JSON has it, without the pictures' files."""
        turns = [
            {"asked": as_json(turn.asked), "answered": as_json(turn.answered), "notes": list(turn.notes)}
            for turn in self.conversation.turns
        ]
        return {"turns": turns, "pictures": [picture_as_json(picture) for picture in self.conversation.pictures]}

    def _checked(self, parts: Sequence[str | int]) -> list[Part]:
        """The parts of a turn, its pictures looked up. Raises DataError or ConfigError."""
        self._check_room()
        asked: list[Part] = [self.picture(part) if isinstance(part, int) else part.strip() for part in parts]
        asked = [part for part in asked if part != ""]
        length = sum(len(part) for part in asked if isinstance(part, str))
        problems = [] if asked else ["the turn is empty; write something, or show a picture"]
        if length > MAX_TEXT:
            problems.append(f"the text has {length} characters; at most {MAX_TEXT} are allowed")
        if any(not _is_unicode(part) for part in asked if isinstance(part, str)):
            problems.append("the text is no Unicode, it holds half of a surrogate pair; write it again")
        if len(asked) > MAX_PARTS:
            problems.append(f"the turn has {len(asked)} parts; at most {MAX_PARTS} texts and pictures are allowed")
        if problems:
            raise ConfigError(problems)
        return asked

    def _codes(self, codes: Sequence[int]) -> Sequence[int]:
        """ConfigError names every code that the tokenizer does not have, and its place, counted from 1."""
        wanted, size = self.engine.queries, self.engine.codes
        if len(codes) != wanted:
            raise ConfigError([f"codes are {len(codes)}; exactly {wanted} are needed"])
        if wrong := [f"code {n} is {code}; 0 to {size - 1} are allowed" for n, code in enumerate(codes, 1)
                     if not 0 <= code < size]:  # fmt: skip
            raise ConfigError(wrong)
        return codes

    def _check_room(self, pictures: int = 0) -> None:
        turns, there = len(self.conversation.turns), len(self.conversation.pictures)
        if turns >= MAX_TURNS or there + pictures > MAX_PICTURES:
            raise DataError(
                f"this conversation has {turns} turns and {there} pictures; at most {MAX_TURNS} and {MAX_PICTURES} are "
                "kept. Begin a new one."
            )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def as_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [{"text": part} if isinstance(part, str) else {"picture": part.number} for part in parts]


def picture_as_json(picture: Picture) -> dict[str, Any]:
    return {
        "number": picture.number,
        "codes": list(picture.codes),
        "first_codes": list(picture.first_codes),
        "given": picture.given is not None,
        "painted_times": picture.painted_times,
    }


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
