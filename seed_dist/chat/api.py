"""What the page asks of the server, as JSON: requests in, replies out, without a word of HTTP.

POST conversations                       begin one -> its id, the models, the limits
GET  conversations/ID                    all of it
POST conversations/ID/pictures           a picture file -> its number and codes
POST conversations/ID/turns              {"parts": ["text", 1], "reply": "words", ...} -> the turn, its new pictures
POST conversations/ID/pictures/N/paint   {"codes": [...], "seed": 0} -> the picture; both may be left out
GET  conversations/ID/pictures/N/KIND    the PNG file, KIND is given or painted
POST conversations/ID/save               -> the folder
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic import dataclasses as strict

from seed_dist.chat import session as limits
from seed_dist.chat.conversation import Picture
from seed_dist.chat.manner import SEEDS, Manner, validated
from seed_dist.chat.session import Session, as_json, picture_as_json
from seed_dist.config import Int, Str
from seed_dist.errors import ConfigError, DataError

MAX_CONVERSATIONS = 16  # of the server; the one that was used least recently makes room
_PATH = re.compile(r"conversations/([0-9a-f]{16})(?:/pictures/([0-9]{1,4}))?(?:/([a-z]+))?")
_FORBID = ConfigDict(extra="forbid")


@strict.dataclass(frozen=True, config=_FORBID)
class Ask(Manner):
    """A turn: texts, numbers of pictures, and how an answer is wanted."""

    parts: Annotated[list[Str | Int], Field(max_length=limits.MAX_PARTS)] = Field(default_factory=list)


@strict.dataclass(frozen=True, config=_FORBID)
class Paint:
    """None means the codes that the picture has."""

    codes: Annotated[list[Int], Field(max_length=4096)] | None = None
    seed: Annotated[Int, Field(ge=0, lt=SEEDS)] = 0


class MissingError(DataError):
    """There is nothing at this address."""


@dataclass(frozen=True)
class Reply:
    body: bytes
    content_type: str = "application/json"


class Api:
    """Conversations by their id, each a secret of the page that began it."""

    def __init__(self, start: Callable[[], Session], manner: Manner) -> None:
        self._start, self._manner = start, manner
        self._conversations: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> Reply:
        """Raises MissingError."""
        name, number, what = _parsed(path)
        session = self._session(name)
        if number is None and what is None:
            return _json(session.state())
        if number is None or what not in ("given", "painted"):
            raise MissingError(f"there is nothing to get at {path}.")
        picture = session.picture(number)
        data = picture.given if what == "given" else picture.painted
        if data is None:
            raise MissingError(f"picture {number} was not {what}.")
        return Reply(data, "image/png")

    def post(self, path: str, body: bytes) -> Reply:
        """Raises MissingError, and ConfigError or DataError for what cannot be done."""
        if path == "conversations":
            _read(TypeAdapter(dict[str, Any]), body)
            return _json(self._begin())
        name, number, what = _parsed(path)
        session = self._session(name)
        if what is None and number is None:
            raise MissingError(f"there is nothing to do at {path}.")
        if (number, what) == (None, "pictures"):
            return _json(picture_as_json(session.show(body)))
        if (number, what) == (None, "turns"):
            return _json(_say(session, _read(TypeAdapter(Ask), body)))
        if (number, what) == (None, "save"):
            _read(TypeAdapter(dict[str, Any]), body)
            try:
                return _json({"folder": str(session.save())})
            except OSError as error:
                raise DataError(
                    f"{error.filename} cannot be written: {error.strerror}. Nothing is lost here."
                ) from error
        if number is not None and what == "paint":
            wanted = _read(TypeAdapter(Paint), body)
            return _json(picture_as_json(session.paint(number, wanted.codes, wanted.seed)))
        raise MissingError(f"there is nothing to do at {path}.")

    @staticmethod
    def takes_a_file(path: str) -> bool:
        return path.endswith("/pictures")

    def _begin(self) -> dict[str, Any]:
        name, session = secrets.token_hex(8), self._start()
        with self._lock:
            self._conversations[name] = session
            while len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
        bounds = {"upload_bytes": limits.MAX_UPLOAD_BYTES, "text": limits.MAX_TEXT, "turns": limits.MAX_TURNS}
        return {"id": name, "models": session.engine.facts(), "limits": bounds, "manner": asdict(self._manner)}

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._conversations:
                raise MissingError(
                    f"this conversation is gone: the server began anew, or {MAX_CONVERSATIONS} later ones took its "
                    "place. Begin a new one."
                )
            self._conversations.move_to_end(name)
            return self._conversations[name]


def _say(session: Session, ask: Ask) -> dict[str, Any]:
    turn = session.say(ask.parts, ask)
    new = [picture_as_json(part) for part in turn.answered if isinstance(part, Picture)]
    return {"asked": as_json(turn.asked), "answered": as_json(turn.answered), "notes": turn.notes, "pictures": new}


def _parsed(path: str) -> tuple[str, int | None, str | None]:
    found = _PATH.fullmatch(path)
    if found is None:
        raise MissingError("there is nothing at this address.")
    return found[1], None if found[2] is None else int(found[2]), found[3]


def _read(adapter: TypeAdapter[Any], body: bytes) -> Any:
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"the request is no JSON: {error}"]) from None
    return validated(adapter, values)


def _json(values: Any) -> Reply:
    return Reply(json.dumps(values).encode())
