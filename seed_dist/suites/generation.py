"""Suite `generation`: caption -> painted picture, against the caption and the picture that it describes.

Codes come from a language model (SEED-LLaMA), or the painter reads the caption itself (the upper bound that SEED-1's
table 2 names, Stable Diffusion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.page.markup import Html
from seed_dist.suites.caption_conditions import Conditioner
from seed_dist.suites.painting import Painting, in_blocks, original
from seed_dist.suites.picture_figures import BESIDE_SETS, PAINTED, picture_figures
from seed_dist.suites.picture_judges import PictureJudges
from seed_dist.suites.picture_records import gallery, judged
from seed_dist.suites.suite import Figure, Record
from seed_dist.testsets.example import Example


class GenerationSuite:
    """`conditioner`: from captions to what the painter reads. `models`: names and SHA-256 of what it is made of."""

    name = "generation"

    def __init__(
        self, conditioner: Conditioner, painting: Painting, judges: PictureJudges, models: Mapping[str, Any]
    ) -> None:
        self._conditioner, self._painting, self._judges = conditioner, painting, judges
        self.not_measured = {name: why for name, why in judges.not_measured.items() if name != "lpips"}
        self.protocol: dict[str, Any] = {
            "painting": painting.protocol(),
            "conditions": conditioner.protocol,
            "judges": {name: how for name, how in judges.protocol.items() if name != "lpips"},
            "caption": "the first of an example, as it is",
            "not_made": "counts as 0 in means over captions, is left out of distributions",
            "beside_sets": BESIDE_SETS,
            "not_measured": self.not_measured,
        }
        self.models: dict[str, Any] = {**models, "painter": painting.models(), **judges.models}

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Codes, features and thumbnails of each; of one whose codes are no image only what there is."""
        if silent := [example.key for example in examples if not example.captions]:
            raise DataError(f"example {silent[0]} has no caption to paint. Give a test set with captions.")
        conditions = self._conditioner([example.captions[0] for example in examples])
        rows = zip(examples, conditions.embeddings, conditions.codes, strict=True)
        return list(in_blocks(list(rows), self._block))

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        valid = np.array([float(record.fields["valid"]) for record in records])
        figures = picture_figures(records, self._painting.seed)
        return [*figures, Figure("valid_codes", float(valid.mean()), len(valid), valid)]

    def section(self, records: Sequence[Record], examples: Sequence[Example]) -> Html:
        return gallery(records, examples)

    def _block(self, rows: list[tuple[Example, Tensor, list[int] | None]]) -> list[Record]:
        """Records of examples with the embeddings that are painted for them, and the codes these are of."""
        examples = [example for example, _, _ in rows]
        originals = [original(example) for example in examples]
        # What is no image is painted too, and thrown away: a smaller block would change the others' last bits.
        painted = self._painting(torch.stack([own for _, own, _ in rows]), [example.key for example in examples])
        records = judged(self._judges, examples, originals, painted)
        return [_kept(record, codes) for record, (_, _, codes) in zip(records, rows, strict=True)]


def _kept(record: Record, codes: list[int] | None) -> Record:
    if codes is not None:
        return replace(record, fields={"valid": True, "codes": codes})
    arrays = {name: array for name, array in record.arrays.items() if PAINTED not in name}
    return Record(record.key, {"valid": False}, arrays)
