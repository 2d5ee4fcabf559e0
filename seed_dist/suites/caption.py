"""Suite `caption`: what the language model says of a picture after reading its codes.

Prompts: SEED-OPT's "a photo of" after the picture (arXiv 2307.08041, section 3 with Table 3); none, as in SEED-LLaMA's
pre-training (AILab-CVC/SEED, MultiModalLLM) and in this project's. The papers do not say how captions were decoded:
`greedy`, and `beam5`, which is BLIP-2's (arXiv 2301.12597, its LAVIS configuration: 5 beams, at most 30 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seed_dist.errors import ConfigError, DataError, UnavailableError
from seed_dist.metrics.caption_programs import Meteor, spice
from seed_dist.metrics.caption_tokens import caption_tokens
from seed_dist.metrics.captions import ORDERS, CaptionPairs, Ints, bleu
from seed_dist.models.generation import Decoding
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.pixels import DECODING
from seed_dist.suites.prompts import CAPTION_PROMPTS
from seed_dist.suites.suite import Figure, Floats, Record
from seed_dist.testsets.example import Example


@dataclass(frozen=True)
class Writing:
    """How captions are written: the name of a prompt, beams of the search (1: greedy), tokens of a caption at most."""

    prompt: str = "none"
    beams: int = 1
    max_new: int = 30

    def __post_init__(self) -> None:
        problems = []
        if self.prompt not in CAPTION_PROMPTS:
            problems.append(f"the prompt is {self.prompt!r}; there are {', '.join(CAPTION_PROMPTS)}")
        if self.beams < 1:
            problems.append(f"beams is {self.beams}; 1 is greedy")
        if self.max_new < 1:
            problems.append(f"max_new is {self.max_new}; a caption needs at least 1 token")
        if problems:
            raise ConfigError(problems)


class Captions:
    """Pictures become codes, and codes the first line of what the model writes.

    `control`: every picture has another one's caption. `chance`: all have the same, the reference of the whole set that
    is most like all others (`CaptionPairs.most_typical`). Domains are scored as sets of their own. Document frequencies
    of CIDEr come from the references of the set, and stay as they are where intervals draw images anew.
    """

    name = "caption"

    def __init__(
        self,
        tokenizer: SeedTokenizer,
        language: ImageLanguage,
        models: dict[str, Any],
        writing: Writing = Writing(),
    ) -> None:
        """`models`: names and SHA-256 of both, for the receipt."""
        self._tokenizer, self._language, self._writing = tokenizer, language, writing
        self.models = models
        self.protocol = {
            "prompt": CAPTION_PROMPTS[writing.prompt],
            "decoding": {**asdict(writing), "caption": "first line"},
            "pictures": {"decoding": DECODING, **tokenizer.processor.details()},
            "tokens": "PTBTokenizer 3.4.1's, lower case, less coco-caption's punctuation",
            "measures": "as pycocoevalcap 1.2; cider_d is its CIDEr",
            "document_frequencies": "references of the set or domain, fixed in resamples",
            "control": "another picture's caption",
            "chance": "the most typical reference, of every picture",
        }

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Fields: written, references."""
        if unfit := [example.key for example in examples if example.image is None or not example.captions]:
            raise DataError(f"{unfit[0]} has no picture or no caption to compare with; choose another set.")
        language, prompt = self._language, CAPTION_PROMPTS[self._writing.prompt]
        after = language.words(prompt) if prompt else []
        codes = self._tokenizer.encode([example.image() for example in examples if example.image]).tolist()
        decoding = Decoding(language.tokenizer.eos_token_id, self._writing.max_new, beams=self._writing.beams)
        prompts = [[language.start_token, *language.image(image), *after] for image in codes]
        written = [language.text(row).strip().partition("\n")[0] for row in language.generate(prompts, decoding)]
        return [
            Record(example.key, {"written": text, "references": list(example.captions)})
            for example, text in zip(examples, written, strict=True)
        ]

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        """BLEU-1 to 4, ROUGE-L, CIDEr-D, CIDEr, METEOR and SPICE, of all pictures and of each domain."""
        written = [caption_tokens(record.fields["written"]) for record in records]
        references = [[caption_tokens(text) for text in record.fields["references"]] for record in records]
        meteor = _opened_meteor()
        figures = _figures("", written, references, meteor)
        domains = sorted({example.domain for example in examples} - {""})
        for domain in domains if len(domains) > 1 else ():
            own = [i for i, example in enumerate(examples) if example.domain == domain]
            figures += _figures(f"/{domain}", [written[i] for i in own], [references[i] for i in own], meteor)
        return figures


def _figures(
    suffix: str, written: list[str], references: list[list[str]], meteor: Meteor | UnavailableError
) -> list[Figure]:
    pairs, n = CaptionPairs(written, references), len(written)
    texts = written, [pairs.most_typical()] * n, _dealt_out_anew(written)
    scores, by_chance, by_control = (_scores(CaptionPairs(own, references)) for own in texts)
    values: dict[str, Any] = {name: {"values": found} for name, found in _means(pairs).items()}
    resampled = {f"bleu_{n}": {"resampled": _corpus_bleu(pairs.bleu_statistics(), n)} for n in range(1, ORDERS + 1)}
    figures = [
        Figure(name + suffix, scores[name], n, **units, chance=by_chance[name], control=by_control[name])
        for name, units in (resampled | values).items()
    ]
    return [
        *figures,
        _meteor(f"meteor{suffix}", texts, references, meteor),
        _spice(f"spice{suffix}", written, references),
    ]


def _corpus_bleu(statistics: Ints, order: int) -> Callable[[Ints], float]:
    return lambda drawn: bleu(statistics[drawn].sum(0))[order - 1]


def _scores(pairs: CaptionPairs) -> dict[str, float]:
    found = bleu(pairs.bleu_statistics().sum(0))
    means = {name: float(values.mean()) for name, values in _means(pairs).items()}
    return {**{f"bleu_{n}": value for n, value in enumerate(found, 1)}, **means}


def _means(pairs: CaptionPairs) -> dict[str, Floats]:
    return {"rouge_l": pairs.rouge_l(), "cider_d": pairs.cider_d(), "cider": pairs.cider()}


def _opened_meteor() -> Meteor | UnavailableError:
    """METEOR's program, once for all domains; where it is missing, what says so."""
    try:
        return Meteor()
    except UnavailableError as error:
        return error


def _meteor(
    name: str, texts: Sequence[list[str]], references: list[list[str]], program: Meteor | UnavailableError
) -> Figure:
    """`texts`: what was written, by chance, and for the control. NaN with a note where the program is missing."""
    n = len(references)
    try:
        if isinstance(program, UnavailableError):
            raise program
        own, *beside = (program.statistics(one, references) for one in texts)
        value, chance, control = (program.score(rows.sum(0)) for rows in (own, *beside))
    except UnavailableError as error:
        return Figure(name, math.nan, n, note=str(error))

    def resampled(drawn: Ints) -> float:
        return program.score(own[drawn].sum(0))

    note = "of the corpus, from sums of its captions' statistics"
    return Figure(name, value, n, resampled=resampled, chance=chance, control=control, note=note)


def _spice(name: str, written: list[str], references: list[list[str]]) -> Figure:
    try:
        values = spice(written, references)
    except UnavailableError as error:
        return Figure(name, math.nan, len(written), note=str(error))
    return Figure(name, float(values.mean()), len(values), values)


def _dealt_out_anew(written: list[str]) -> list[str]:
    """Each caption on another picture: the next one in an order drawn with seed 0."""
    order = np.random.default_rng(0).permutation(len(written))
    dealt = [""] * len(written)
    for own, other in zip(order, np.roll(order, 1), strict=True):
        dealt[own] = written[other]
    return dealt
