"""Suite `codes`: what the ids themselves are like, whatever reads them.

Use of the codebook and entropy of each position; what the first k codes find (R@1); what each position tells of the
captions' words; whether ids stay when the picture is changed a little, and in batches of one and in bf16; and which
pictures are nearest by codes and by embeddings. About one picture in four is tokenized in the changed ways.

In the place of codes behind the first k the decoders see their vector for absent codes, or, in a model that was not
trained with one, the mean decoded embedding of that position over the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seed_dist.errors import UnavailableError
from seed_dist.models.tokenizer import first_codes
from seed_dist.page.markup import Html
from seed_dist.suites import code_figures, neighbours
from seed_dist.suites.models import Models
from seed_dist.suites.perturbations import PROTOCOL, is_probe, perturbed
from seed_dist.suites.retrieval import MAX_TOKENS, both_directions, prepared, same_for_same, shuffled_captions
from seed_dist.suites.selection import Options
from seed_dist.suites.suite import Figure, Record
from seed_dist.testsets.example import Example

ONE_IN = 4  # examples that are tokenized in changed ways, too


class CodesSuite:
    """Records hold the ids of each picture, and of what was done to it."""

    name = "codes"

    def __init__(self, models: Models, options: Options) -> None:
        self._models, self._seed, self._crop = models, options.seed, options.protocol == "crop"
        self._quantizer = models.tokenizer.quantizer
        try:
            self._max_tokens = min(MAX_TOKENS[options.protocol], models.qformer.config.text_positions)
        except UnavailableError:  # a published tokenizer has no text path: no prefix curves
            self._max_tokens = 0
        absent = "mean over the set" if self._quantizer.absent is None else "trained"
        self.protocol: dict[str, Any] = {
            "name": options.protocol,
            "geometry": "centre square" if self._crop else "squash",
            "max_text_tokens": self._max_tokens or None,
            "absent_codes": absent,
            "perturbations": PROTOCOL,
            "perturbed": f"one in {ONE_IN}, by key",
            "seed": options.seed,
        }
        self.models: dict[str, Any] = models.tokenizer_hashes()

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Ids and last causal embedding of each picture, features of its captions, ids of the perturbed picture."""
        pictures = [prepared(example, self._crop) for example in examples]
        causal = self._models.causal_embeddings(pictures)
        codes = self._models.codes(causal).numpy()
        arrays: list[dict[str, Any]] = [
            {"last": last.numpy(), "ids": ids.astype(np.int32)} for last, ids in zip(causal[:, -1], codes, strict=True)
        ]
        probes = [row for row, example in enumerate(examples) if is_probe(example.key, ONE_IN)]
        for kind, ids in self._changed([examples[row] for row in probes], [pictures[row] for row in probes]).items():
            for row, own in zip(probes, ids.numpy(), strict=True):
                arrays[row][f"ids.{kind}"] = own.astype(np.int32)
        if self._max_tokens:
            captions = [caption for example in examples for caption in example.captions]
            text = self._models.text_feature(captions, self._max_tokens).numpy() if captions else np.zeros((0, 1))
            ends = np.cumsum([len(example.captions) for example in examples])
            for row, own in enumerate(arrays):
                own["text"] = text[ends[row] - len(examples[row].captions) : ends[row]]
        return [
            Record(example.key, {"codes": ids.tolist()}, own)
            for example, ids, own in zip(examples, codes, arrays, strict=True)
        ]

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        codes = np.stack([record.arrays["ids"] for record in records]).astype(np.int64)
        last = np.stack([record.arrays["last"] for record in records])
        first = [example.captions[0] for example in examples if example.captions]
        return [
            *code_figures.usage(codes, self._quantizer.config.size),
            *(self._prefixes(records, examples, codes) if self._max_tokens and len(first) == len(examples) else []),
            *(code_figures.words(codes, first, self._seed) if len(first) == len(examples) else []),
            *code_figures.stability(records, self._seed),
            *neighbours.figures(codes, last, self._seed),
        ]

    def section(self, records: Sequence[Record], examples: Sequence[Example]) -> Html:
        return neighbours.section(records, examples)

    def _changed(self, examples: Sequence[Example], pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Ids int64 [B, Q] after each perturbation, in batches of one, and in bf16; nothing without pictures."""
        if not pictures:
            return {}
        found = {}
        for kind in PROTOCOL:
            changed = [perturbed(p, kind, e.key, self._seed) for p, e in zip(pictures, examples, strict=True)]
            found[kind] = self._models.codes(self._models.causal_embeddings(changed))
        alone = [self._models.codes(self._models.causal_embeddings([picture])) for picture in pictures]
        found["alone"] = torch.cat(alone)
        with torch.autocast(self._models.device.type, torch.bfloat16):
            found["bf16"] = self._models.codes(self._models.causal_embeddings(pictures))
        return found

    @torch.no_grad()
    def _prefixes(
        self, records: Sequence[Record], examples: Sequence[Example], codes: np.ndarray[Any, Any]
    ) -> list[Figure]:
        """R@1 in both directions from the first 1, 2, 4, ... codes, and from all."""
        texts = [caption for example in examples for caption in example.captions]
        text = same_for_same(texts, np.concatenate([record.arrays["text"] for record in records]))
        owner = torch.tensor([row for row, example in enumerate(examples) for _ in example.captions])
        images, shuffled = torch.arange(len(examples)), shuffled_captions(len(examples), self._seed)
        queries, absent = codes.shape[1], self._in_place_of_absent(codes)
        figures = []
        for kept in sorted({queries, *(2**power for power in range(queries.bit_length()) if 2**power < queries)}):
            image = torch.cat([self._seen(block, kept, absent) for block in self._decoded(codes)])
            ranks = both_directions(image, text, images, owner)
            control = both_directions(image, text, shuffled, owner)
            figures += code_figures.prefix(kept, ranks, control, owner)
        return figures

    def _decoded(self, codes: np.ndarray[Any, Any]) -> Iterator[Tensor]:
        """Decoded embeddings [B, Q, W] of all pictures, block by block."""
        for block in torch.from_numpy(codes).split(self._models.batch_size):
            yield self._quantizer.decode(block.to(self._models.device))

    def _in_place_of_absent(self, codes: np.ndarray[Any, Any]) -> Tensor:
        """[W], or [Q, W]."""
        if self._quantizer.absent is not None:
            return self._quantizer.absent
        return (sum(block.double().sum(0) for block in self._decoded(codes)) / len(codes)).float()  # type: ignore[union-attr]

    def _seen(self, decoded: Tensor, kept: int, absent: Tensor) -> Tensor:
        """Unit vectors [B, D] of pictures of which the first `kept` codes are seen."""
        seen = first_codes(decoded, torch.full((len(decoded),), kept, device=decoded.device), absent)
        return self._models.image_feature(self._quantizer.reconstruct(seen))
