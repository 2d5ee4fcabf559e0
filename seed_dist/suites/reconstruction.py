"""Suite `reconstruction`: picture -> codes -> painted picture, against the picture (SEED-1, table 2, row SEED)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seed_dist.models.painter import require_shape
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.page.markup import Html
from seed_dist.suites.painting import Painting, in_blocks, keep_blocks_whole, original
from seed_dist.suites.picture_figures import BESIDE_SETS, picture_figures
from seed_dist.suites.picture_judges import PictureJudges
from seed_dist.suites.picture_records import gallery, judged
from seed_dist.suites.suite import Figure, Record
from seed_dist.testsets.example import Example


class ReconstructionSuite:
    """Of a tokenizer with its painter. `models`: names and SHA-256 of the tokenizer, for the receipt."""

    name = "reconstruction"

    def __init__(
        self, tokenizer: SeedTokenizer, painting: Painting, judges: PictureJudges, models: Mapping[str, Any]
    ) -> None:
        self._tokenizer, self._painting, self._judges = tokenizer, painting, judges
        keep_blocks_whole(tokenizer)
        require_shape(painting.painter, tuple(tokenizer.decode_embeddings([]).shape[1:]))
        self.not_measured = judges.not_measured
        self.protocol: dict[str, Any] = {
            "painting": painting.protocol(),
            "judges": judges.protocol,
            "caption": "the first of an example",
            "beside_sets": BESIDE_SETS,
            "not_measured": self.not_measured,
        }
        self.models: dict[str, Any] = {**models, "painter": painting.models(), **judges.models}

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Codes, features and thumbnails of each."""
        return list(in_blocks(examples, self._block))

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        return picture_figures(records, self._painting.seed)

    def section(self, records: Sequence[Record], examples: Sequence[Example]) -> Html:
        return gallery(records, examples)

    def _block(self, examples: list[Example]) -> list[Record]:
        originals = [original(example) for example in examples]
        codes = self._tokenizer.encode(originals)
        painted = self._painting(self._tokenizer.decode_embeddings(codes), [example.key for example in examples])
        distances = self._judges.distances(originals, painted)
        records = judged(self._judges, examples, originals, painted)
        return [
            replace(
                record, fields={"codes": codes[row].tolist(), **{name: own[row] for name, own in distances.items()}}
            )
            for row, record in enumerate(records)
        ]
