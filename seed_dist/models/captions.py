"""The one way a caption becomes the token ids of the Q-Former's text path: in training, in evaluation and for users."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoTokenizer

from seed_dist.assets import resolve

MAX_WORDS = 50  # published: longer captions are cut before tokenisation
_PUNCTUATION = re.compile(r"([.!\"()*#:;~])")


def clean_caption(caption: str) -> str:
    """Lower case, the published punctuation marks and repeated blanks made one blank, at most 50 words."""
    words = _PUNCTUATION.sub(" ", caption.lower()).split()
    return " ".join(words[:MAX_WORDS])


def exchanged(caption: str, words: int) -> str | None:
    """The caption with what follows two occurrences of one word exchanged, `words` words each, or None.

    "a red star left of a blue moon" becomes "a blue star left of a red moon" (1) or "a blue moon left of a red star"
    (2): the same words said of something else. A loss that has it as a negative must learn what belongs to what, which
    other captions of a batch hardly ever ask for (compare Yuksekgonul et al. 2023, "When and Why Vision-Language Models
    Behave like Bags-Of-Words", who exchange words by their part of speech).
    """
    parts = caption.split()
    for first, word in enumerate(parts):
        for second in range(first + 1 + words, len(parts) - words):
            a, b = slice(first + 1, first + 1 + words), slice(second + 1, second + 1 + words)
            if parts[second] == word and parts[a] != parts[b]:
                parts[a], parts[b] = parts[b], parts[a]
                return " ".join(parts)
    return None


def unknown_share(tokenizer: Any, captions: Sequence[str]) -> float:
    """Share of the captions' tokens that a transformers tokenizer does not know: 0 for byte-level ones."""
    rows = tokenizer([clean_caption(caption) for caption in captions], add_special_tokens=False)["input_ids"]
    ids = [token for row in rows for token in row]
    return sum(token == tokenizer.unk_token_id for token in ids) / len(ids) if ids else 0.0


class CaptionTokenizer:
    """A transformers tokenizer folder; captions cut at `max_tokens`, padded on the right to the batch's longest."""

    def __init__(self, reference: str, max_tokens: int) -> None:
        self.reference, self.max_tokens = reference, max_tokens
        self._tokenizer = cast(
            Any, AutoTokenizer.from_pretrained(str(resolve(reference, "text_tokenizer")), local_files_only=True)
        )
        self._tokenizer.padding_side = "right"

    def __len__(self) -> int:
        return len(self._tokenizer)

    def unknown_share(self, captions: Sequence[str]) -> float:
        """See `unknown_share`."""
        return unknown_share(self._tokenizer, captions)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B captions -> token ids and mask (1 = token, 0 = padding), both int64 [B, T] with T <= max_tokens.

        Position 0 holds the class token. Padding less than the maximum changes no result: padding is masked.
        """
        cleaned = [clean_caption(caption) for caption in captions]
        out = self._tokenizer(cleaned, padding=True, truncation=True, max_length=self.max_tokens)
        return torch.tensor(out["input_ids"]), torch.tensor(out["attention_mask"])
