"""A causal language model whose vocabulary has image codes behind its words: prompts, what it writes, and as what.

Ids below `first_code` are words and rows that the tokenizer does not fill. Id `first_code + k` is image code k; the
last two are the begin- and end-of-image marks. How such a model is made is its subclasses' business: adapters on a
frozen base while it is trained (`seed_dist.models.language`), one plain model once they are merged
(`seed_dist.models.merged_language`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seed_dist.errors import MismatchError
from seed_dist.models.code_order import Order, as_encoded, as_written
from seed_dist.models.generation import Decoding, WholeImages, WordsAlone, generate


class ImageLanguage(nn.Module, ABC):
    """Codes are given and returned by position, as the tokenizer makes them; within documents they stand in
    `code_order`.

    A subclass sets the attributes.
    """

    reference: str  # what to call the model: where it was read from
    tokenizer: Any  # of words, as transformers has it
    word_count: int  # ids below it are tokens of `tokenizer`
    first_code: int
    codes: int
    positions: int | None  # how many tokens a row may have, where the model has a limit
    code_order: Order

    @property
    def begin_image(self) -> int:
        return self.first_code + self.codes

    @property
    def end_image(self) -> int:
        return self.first_code + self.codes + 1

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where token ids are expected."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, width]."""

    @abstractmethod
    def hidden(self, embeddings: Tensor, **context: Any) -> Any:
        """The transformer's output (`last_hidden_state` [B, T, width]) without the output layer. `context`: mask,
        positions and cache as transformers names them."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., width] -> scores over words, codes and the two marks."""

    def check_codes(self, size: int) -> None:
        """MismatchError where a tokenizer of `size` codes cannot be the one whose codes this model was trained on."""
        if self.codes != size:
            raise MismatchError(
                "the number of codes that the tokenizer has", size, self.codes,
                "Give the tokenizer whose codes the language model was trained on (--tokenizer).",
            )  # fmt: skip

    @property
    def start_token(self) -> int:
        """What begins a document: the tokenizer's begin token, or its end token where it has no other (as GPT-2)."""
        start = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if start is None else start)

    def words(self, text: str) -> list[int]:
        """Token ids of a text, without begin or end."""
        return cast("list[int]", self.tokenizer.encode(text, add_special_tokens=False))

    def image(self, codes: Sequence[int]) -> list[int]:
        """Token ids of an image: its codes, in the order in which they are written, between the two marks."""
        written = as_written(torch.tensor(codes), self.code_order).tolist()
        return [self.begin_image, *(self.first_code + code for code in written), self.end_image]

    def text(self, ids: Sequence[int]) -> str:
        """The words among token ids; images, special tokens and ids that the tokenizer does not have are left out."""
        words = [i for i in ids if i < self.word_count]
        return cast(str, self.tokenizer.decode(words, skip_special_tokens=True))

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
        """Continuations of prompts of words and any number of images, see `seed_dist.models.generation`."""
        return generate(self, prompts, decoding)

    def whole_images(self, queries: int) -> WholeImages:
        """The grammar that lets this model write only images of exactly `queries` codes."""
        return WholeImages(self.first_code, self.codes, queries)

    def words_alone(self) -> WordsAlone:
        """The grammar that lets this model write no image."""
        return WordsAlone(self.first_code)

    def generate_captions(self, codes: Tensor, max_words: int = 32) -> list[str]:
        """Greedy captions of images given as codes int [B, Q]."""
        prompts = [[self.start_token, *self.image(image)] for image in codes.tolist()]
        return [self.text(row) for row in self.generate(prompts, Decoding(self.tokenizer.eos_token_id, max_words))]

    def generate_images(self, captions: Sequence[str], queries: int, force_image: bool = False) -> list[list[int]]:
        """What the model writes after each caption, greedily, up to the end-of-image mark; `valid_codes` tells images
        from others. With `force_image` every row is an image: begin mark, `queries` codes, end mark.
        """
        forced = [self.begin_image] if force_image else []
        prompts = [[self.start_token, *self.words(caption), *forced] for caption in captions]
        grammar = self.whole_images(queries) if force_image else None
        rows = self.generate(prompts, Decoding(self.end_image, queries + 2 - len(forced), grammar))
        return [forced + row for row in rows]

    def valid_codes(self, row: Sequence[int], queries: int) -> list[int] | None:
        """The `queries` image codes of a generated row, or None where it is not exactly begin, codes, end."""
        if len(row) != queries + 2 or row[0] != self.begin_image or row[-1] != self.end_image:
            return None
        codes = [token - self.first_code for token in row[1:-1]]
        if not all(0 <= code < self.codes for code in codes):
            return None
        return as_encoded(torch.tensor(codes), self.code_order).tolist()
