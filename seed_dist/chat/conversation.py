"""A conversation: turns of words and pictures, and the token ids that a language model is asked to continue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from seed_dist.errors import DataError


@dataclass(eq=False)
class Picture:
    """A picture as the model knows it, by its codes from left to right; they may be edited, `first_codes` stay.

    `given` is what a person showed and `painted` what the painter made of the codes as they are now, each a PNG file.
    """

    number: int
    codes: tuple[int, ...]
    first_codes: tuple[int, ...] = field(init=False)
    given: bytes | None = None
    painted: bytes | None = None
    painted_times: int = 0

    def __post_init__(self) -> None:
        self.first_codes = self.codes

    def file_name(self, kind: str) -> str:
        """Of its PNG file, `given` or `painted`."""
        return f"picture-{self.number:02d}-{kind}.png"


Part: TypeAlias = str | Picture


@dataclass(frozen=True)
class Turn:
    """What a person said and what was answered; `notes` say what the person should know of the answer."""

    asked: tuple[Part, ...]
    answered: tuple[Part, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """The words that a model was taught to expect around what a person says: before and after a turn, around each of
    its texts, and before every turn but the first."""

    before: str = ""
    question: str = "{}"
    after: str = ""
    between: str = ""


TEMPLATES = {
    # As this project trains: <s> image caption </s> and <s> caption image </s>, with no word of its own.
    "plain": Template(),
    # Visual questions of SEED-OPT (Ge et al. 2023, section 3).
    "question": Template(question="Question: {} Short answer."),
    # Instruction tuning of SEED-LLaMA (its configs/data/multi_torchdata_sft.yaml), no end token between turns.
    "vicuna": Template(before="USER: ", after="\nASSISTANT:", between="\n"),
}


class Vocabulary(Protocol):
    """What a conversation asks of a language model; see `seed_dist.models.language`."""

    @property
    def start_token(self) -> int: ...

    def words(self, text: str) -> list[int]: ...

    def image(self, codes: Sequence[int]) -> list[int]: ...


@dataclass
class Conversation:
    """Turns so far, and all pictures by their number, from 1."""

    template: Template
    turns: list[Turn] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def add_picture(self, codes: Sequence[int], given: bytes | None = None) -> Picture:
        picture = Picture(len(self.pictures) + 1, tuple(codes), given=given)
        self.pictures.append(picture)
        return picture

    def prompt(
        self, asked: Sequence[Part], vocabulary: Vocabulary, longest: int | None, remember: int
    ) -> tuple[list[int], int]:
        """Token ids of the last `remember` turns and of `asked`, and how many turns are in them.

        Turns are left out whole, the oldest first, until at most `longest` tokens remain: no image is ever cut. Raises
        DataError where `asked` alone has more.
        """
        for turns in range(min(remember, len(self.turns)), -1, -1):
            ids = self._ids(self.turns[len(self.turns) - turns :], asked, vocabulary)
            if longest is None or len(ids) <= longest:
                return ids, turns
        raise DataError(
            f"this turn takes {len(ids)} tokens, but at most {longest} fit beside an answer. Shorten the text, or "
            "leave pictures out."
        )

    def _ids(self, turns: Sequence[Turn], asked: Sequence[Part], vocabulary: Vocabulary) -> list[int]:
        parts: list[Part] = []
        for turn in turns:
            parts += [*self._said(turn.asked, is_first=not parts), *turn.answered]
        parts += self._said(asked, is_first=not parts)
        ids = [vocabulary.start_token]
        for part in _joined(parts):
            ids += vocabulary.words(part) if isinstance(part, str) else vocabulary.image(part.codes)
        return ids

    def _said(self, asked: Sequence[Part], is_first: bool) -> list[Part]:
        """A person's turn as its template has it."""
        texts = [self.template.question.format(part) if isinstance(part, str) else part for part in asked]
        return ["" if is_first else self.template.between, self.template.before, *texts, self.template.after]


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Neighbouring texts as one, with a blank where they would touch: tokenizers split a text as a whole."""
    joined: list[Part] = []
    for part in parts:
        if part == "":
            continue
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            touch = not last[-1].isspace() and not part[0].isspace()
            joined[-1] = f"{last} {part}" if touch else last + part
        else:
            joined.append(part)
    return joined
