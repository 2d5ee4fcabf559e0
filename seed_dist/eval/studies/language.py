"""What the language model makes of codes, whoever made them: their cost in nats, captions, and codes for captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seed_dist.eval import attributes
from seed_dist.models.captions import clean_caption
from seed_dist.models.documents import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seed_dist.models.language import SeedLanguageModel


def costs(language: SeedLanguageModel, captions: Sequence[str], codes: Tensor, block: int) -> dict[str, float]:
    """Nats per image given its caption (marks and end of sequence included), and per caption given the image's codes.

    `_shuffled` is the same with each caption beside the codes of another image: what the pairing is worth is the
    difference.
    """
    exchanged = [*captions[1:], *captions[:1]]
    return {
        "nats_per_image": _nats(language, captions, codes, True, block),
        "nats_per_image_shuffled": _nats(language, exchanged, codes, True, block),
        "nats_per_caption": _nats(language, captions, codes, False, block),
        "nats_per_caption_shuffled": _nats(language, exchanged, codes, False, block),
    }


@torch.inference_mode()
def _nats(
    language: SeedLanguageModel, captions: Sequence[str], codes: Tensor, caption_first: bool, block: int
) -> float:
    """Mean over the N sequences of the cross-entropy summed over their scored tokens."""
    total = 0.0
    for start in range(0, len(captions), block):
        part = captions[start : start + block]
        batch = language.sequences(part, codes[start : start + block], torch.full((len(part),), caption_first))
        tokens = int((batch["labels"][:, 1:] != IGNORE).sum())
        total += tokens * float(language(**{key: value.to(language.device) for key, value in batch.items()}))
    return total / len(captions)


def captions_from(language: SeedLanguageModel, captions: Sequence[str], codes: Tensor, block: int) -> dict[str, Any]:
    """Right words in the captions written from codes [N, Q], beside chance and captions of other images."""
    written = [clean_caption(text) for part in codes.split(block) for text in language.generate_captions(part)]
    return {
        **attributes.score_captions(written, captions),
        "n": len(captions),
        "chance": attributes.chance_captions(captions),
        "shuffled": attributes.score_captions(written[1:] + written[:1], captions),
    }
