"""What a painter is conditioned on, from captions: codes that a language model writes, or the painter's own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256
from seed_dist.errors import ConfigError
from seed_dist.models.painter import Painter
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.vision import FrozenClip
from seed_dist.suites.painting import in_blocks, keep_blocks_whole

if TYPE_CHECKING:
    from seed_dist.models.image_language import ImageLanguage


@dataclass(frozen=True)
class Conditions:
    """Generation embeddings [B, ...], and per caption the codes they are of.

    Codes are None where what was written was no image (its embedding is then of nothing), [] where none are needed.
    """

    embeddings: Tensor
    codes: list[list[int] | None]


class Conditioner(Protocol):
    """Captions -> conditions, each by its caption alone to the last bit. The more at a time, the less is filled up."""

    protocol: dict[str, Any]

    def __call__(self, captions: Sequence[str]) -> Conditions: ...


class WrittenCodes:
    """A language model continues each caption greedily; an image is exactly begin mark, all codes, end mark.

    With `force_image` no other token is let through, so every continuation is one.
    """

    def __init__(self, language: ImageLanguage, tokenizer: SeedTokenizer, force_image: bool = False) -> None:
        self._language, self._tokenizer, self._force = language, tokenizer, force_image
        keep_blocks_whole(tokenizer)
        self._queries = tokenizer.quantizer.queries
        self.protocol = {"source": "codes after the caption, greedy", "force_image": force_image}

    def __call__(self, captions: Sequence[str]) -> Conditions:
        codes: list[list[int] | None] = [None] * len(captions)
        # Captions of one length make blocks without padding: how long the others are then changes no bit.
        lengths = [len(self._language.words(caption)) for caption in captions]
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            for row, written in zip(rows, in_blocks([captions[row] for row in rows], self._written), strict=True):
                codes[row] = self._language.valid_codes(written, self._queries)
        ids = [own if own is not None else [0] * self._queries for own in codes]
        return Conditions(torch.stack(list(in_blocks(ids, self._embedded))), codes)

    def _embedded(self, ids: list[list[int]]) -> list[Tensor]:
        return list(self._tokenizer.decode_embeddings(ids))

    def _written(self, captions: list[str]) -> list[list[int]]:
        return self._language.generate_images(captions, self._queries, self._force)


class OwnText:
    """The text encoder that a Stable Diffusion ships with: the row `Stable Diffusion` of SEED-1's table 2.

    ConfigError for painters that are driven by pictures' embeddings: they have no way from a text.
    """

    def __init__(self, painter: Painter) -> None:
        folder = resolve(painter.reference, "painter")
        if len(painter.embedding_shape) != 2 or not (folder / "text_encoder").is_dir():
            raise ConfigError(
                [
                    f"painter {painter.reference!r} paints no captions: it is driven by embeddings of pictures. Give a "
                    "language model that writes codes, or a painter of the family StableDiffusionPipeline"
                ]
            )
        self._text = FrozenClip(painter.reference, painter.device, "painter")
        self.protocol = {"source": "the painter's own text encoder", "weights_sha256": weights_sha256(folder)}

    def __call__(self, captions: Sequence[str]) -> Conditions:
        return Conditions(torch.stack(list(in_blocks(captions, self._features))), [[] for _ in captions])

    def _features(self, captions: list[str]) -> list[Tensor]:
        return list(self._text.text_features(captions).cpu())
