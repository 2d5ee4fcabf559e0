"""The models of a conversation, behind one lock: pictures to codes, turns to answers, codes to pictures."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from seed_dist.chat.conversation import Conversation, Part
from seed_dist.chat.manner import Manner
from seed_dist.dist.precision import dtype_of, precision_on
from seed_dist.models.generation import Decoding
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.language_folder import open_language
from seed_dist.models.pretrained import SeedTokenizer


@dataclass(frozen=True)
class Answer:
    """What the model wrote: texts, and images as their codes. `notes` say what a reader should know."""

    parts: tuple[str | tuple[int, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Painting:
    """Steps and guidance of the painter; None means the default of its publication."""

    steps: int | None = None
    guidance: float | None = None


class Engine:
    """A language model and the tokenizer whose codes it was trained on. Calls wait for each other.

    An answer has at most `max_tokens` tokens; one that must be a picture has as many as a picture takes.
    """

    def __init__(self, language: ImageLanguage, tokenizer: SeedTokenizer, max_tokens: int, painting: Painting) -> None:
        size = tokenizer.quantizer.config.size
        language.check_codes(size)
        self.language, self.tokenizer, self.max_tokens, self.painting = language, tokenizer, max_tokens, painting
        self.queries, self.codes = int(tokenizer.quantizer.queries), int(size)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, llm: Path, tokenizer: Path, backbones: Mapping[str, str], max_tokens: int, painting: Painting
    ) -> Engine:
        """`llm`: an adapter or a merged model. `backbones`: where frozen models are, if no longer where they were in
        training."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        images = SeedTokenizer.from_pretrained(tokenizer, device)
        images.backbones = dataclasses.replace(images.backbones, **backbones)
        dtype = dtype_of(precision_on(device, "auto"))
        language = open_language(llm, backbones.get("language_model"), dtype)
        return cls(language.to(device).eval().requires_grad_(False), images, max_tokens, painting)

    def see(self, picture: Image.Image) -> tuple[int, ...]:
        """The codes of an RGB picture, from left to right."""
        with self._lock:
            return tuple(self.tokenizer.encode(picture)[0].tolist())

    def paint(self, codes: Sequence[int], seed: int) -> Image.Image:
        """The picture that the painter makes of codes; equal arguments give equal pictures."""
        with self._lock:
            return self.tokenizer.paint(list(codes), seed, self.painting.steps, self.painting.guidance)[0]

    def answer(self, conversation: Conversation, asked: Sequence[Part], manner: Manner) -> Answer:
        """What the model says to `asked`. Raises DataError where that has no room."""
        language, forced = self.language, []
        picture_tokens = self.queries + 2
        longest = None if language.positions is None else language.positions - picture_tokens + 1
        ids, remembered = conversation.prompt(asked, language, longest, manner.remember)
        end = language.tokenizer.eos_token_id
        grammar: Any = language.words_alone() if manner.reply == "words" else language.whole_images(self.queries)
        if manner.reply == "picture":
            forced, end = [language.begin_image], language.end_image
        most = picture_tokens - 1 if forced else self.max_tokens
        seed = manner.seed + len(conversation.turns)
        decoding = Decoding(end, most, grammar, manner.temperature, manner.top_p, seed)
        with self._lock:
            (row,) = language.generate([[*ids, *forced]], decoding)
        parts, is_cut = self._parts([*forced, *row])
        notes = [*self._unknown(asked), *(["the picture was left away: it was not finished"] if is_cut else [])]
        if row[-1] != end:
            notes.append(f"the answer was cut after {len(row)} tokens")
        if (wanted := min(manner.remember, len(conversation.turns))) > remembered:
            notes.append(f"only {remembered} of the last {wanted} turns had room")
        return Answer(parts, tuple(notes))

    def facts(self) -> dict[str, Any]:
        """What a person may want to know of the models."""
        return {
            "language_model": self.language.reference,
            "painter": self.tokenizer.backbones.painter,
            "queries": self.queries,
            "codes": self.codes,
            "positions": self.language.positions,
            "device": str(self.language.device),
        }

    def _parts(self, ids: Sequence[int]) -> tuple[tuple[str | tuple[int, ...], ...], bool]:
        """Texts and images among written ids, and whether an image was cut off at the end."""
        language, whole, start = self.language, self.queries + 2, 0
        parts: list[str | tuple[int, ...]] = []
        while start < len(ids):
            if ids[start] == language.begin_image:
                codes = language.valid_codes(ids[start : start + whole], self.queries)
                if codes is None:
                    return tuple(parts), True
                parts.append(tuple(codes))
                start += whole
            else:
                begins = (place for place in range(start, len(ids)) if ids[place] == language.begin_image)
                stop = next(begins, len(ids))
                if text := language.text(ids[start:stop]).strip():
                    parts.append(text)
                start = stop
        return tuple(parts), False

    def _unknown(self, asked: Iterable[Part]) -> list[str]:
        """A note of the words that the model's tokenizer does not have; byte-level ones have all."""
        unknown = self.language.tokenizer.unk_token_id
        words = [word for part in asked if isinstance(part, str) for word in part.split()]
        strange = dict.fromkeys(word for word in words if unknown in self.language.words(word))
        return [f"the language model does not know: {', '.join(strange)}"] if strange else []
