"""Captions to pictures: the language model continues a caption with codes, unforced; those are painted and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from seed_dist.eval.attributes import chance_captions
from seed_dist.eval.metrics import mean_cosine
from seed_dist.eval.reader import AttributeReader, Reading, score_readings
from seed_dist.eval.units import PerUnit

if TYPE_CHECKING:
    from seed_dist.models.language import SeedLanguageModel
    from seed_dist.models.vision import FrozenClip


@dataclass
class Imagined:
    """What the language model made of captions: `codes` [V, Q] of those V `rows` for which it was a valid image."""

    codes: Tensor
    rows: list[int]
    asked: int

    @property
    def valid(self) -> PerUnit:
        """Share of the captions for which there is one."""
        made = set(self.rows)
        return PerUnit([row in made for row in range(self.asked)])

    def among(self, rows: int) -> Imagined:
        """The same of the first `rows` captions."""
        kept = [i for i, row in enumerate(self.rows) if row < rows]
        return Imagined(self.codes[kept], [self.rows[i] for i in kept], min(rows, self.asked))


def imagine(
    language: SeedLanguageModel, captions: Sequence[str], queries: int, block: int, force_image: bool = False
) -> Imagined:
    """Codes for captions; valid is exactly begin-of-image, `queries` codes, end-of-image, unforced unless asked."""
    found: list[list[int] | None] = []
    for start in range(0, len(captions), block):
        written = language.generate_images(captions[start : start + block], queries, force_image)
        found += [language.valid_codes(row, queries) for row in written]
    rows = [i for i, codes in enumerate(found) if codes is not None]
    codes = torch.tensor([codes for codes in found if codes is not None], dtype=torch.int64).reshape(-1, queries)
    return Imagined(codes, rows, len(captions))


def embed_pictures(clip: FrozenClip, pictures: Sequence[Image.Image], block: int) -> Tensor:
    """CLIP image embeddings [N, E] on the CPU."""
    parts = [
        clip.image_embedding(torch.stack([clip.preprocess(picture) for picture in pictures[i : i + block]])).cpu()
        for i in range(0, len(pictures), block)
    ]
    return torch.cat(parts) if parts else torch.empty(0, 1)


def embed_texts(clip: FrozenClip, texts: Sequence[str], block: int) -> Tensor:
    """CLIP text embeddings [N, E] on the CPU."""
    return torch.cat([clip.text_embedding(texts[i : i + block]).cpu() for i in range(0, len(texts), block)])


class Judge:
    """Scores embeddings of pictures that were made for captions; invalid images count as wrong in everything."""

    def __init__(self, clip: FrozenClip, captions: Sequence[str]) -> None:
        self._reader = AttributeReader(captions, lambda texts: clip.text_embedding(texts).cpu())
        self.captions = list(captions)

    def readings(self, imagined: Imagined, embeddings: Tensor) -> list[list[Reading]]:
        """What is seen in each valid image, given their embeddings [V, E]."""
        return self._reader.read(imagined.rows, embeddings)

    def score(self, imagined: Imagined, embeddings: Tensor) -> dict[str, Any]:
        """Fractions read right, over all captions asked for."""
        made = set(imagined.rows)
        unmade = [self._reader.questions[row] for row in range(imagined.asked) if row not in made]
        return score_readings(self.readings(imagined, embeddings), unmade)

    def score_all(self, embeddings: Tensor) -> dict[str, Any]:
        """The same for one embedding of each caption's image [N, E], such as the originals': the judge's own errors."""
        return score_readings(self._reader.read(range(len(embeddings)), embeddings))

    def chance(self) -> dict[str, Any]:
        """Fractions right for the most frequent answer."""
        return chance_captions(self.captions)


def similarity(painted: Tensor, originals: Tensor) -> dict[str, float]:
    """Mean CLIP cosine of painted pictures and the originals of their captions [V, E], and of mismatched pairs."""
    if len(painted) < 2:
        return {}
    return {
        "clip_similarity": mean_cosine(painted, originals),
        "clip_similarity_shuffled": mean_cosine(painted, originals.roll(1, 0)),
    }
