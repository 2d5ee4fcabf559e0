"""Suite `caption` over pictures of NoCaps' kind: a random tokenizer and a random language model, all of it real."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.errors import ConfigError, DataError
from seed_dist.metrics.caption_tokens import caption_tokens
from seed_dist.metrics.captions import CaptionPairs, bleu
from seed_dist.suites.caption import Captions, Writing
from seed_dist.suites.prompts import CAPTION_PROMPTS as PROMPTS
from seed_dist.suites.suite import Figure, Record
from seed_dist.testsets.example import Example
from tests.languages import FAMILIES, lora_options, save_language
from tests.unit.tokenize import tiny_tokenizer

from seed_dist.models.language import SeedLanguageModel  # isort: skip  # after tests.languages
from seed_dist.models.pretrained import SeedTokenizer  # isort: skip

SAID = [
    "A red heart above a blue star.",
    "a green moon",
    "Two yellow suns, left of a red heart",
    "a blue star",
    "A star!",
]
DOMAINS = ["in-domain", "near-domain", "in-domain", "out-domain", "in-domain"]
Models = tuple[SeedTokenizer, SeedLanguageModel]


@pytest.fixture(scope="module", params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer.export(folder / "tokenizer")
    torch.manual_seed(5)
    language = SeedLanguageModel(
        str(save_language(folder / "language", request.param)), 200, lora_options(request.param)
    )
    return tokenizer, language.eval()


def picture(number: int) -> Callable[[], Image.Image]:
    cells = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return lambda: Image.fromarray(cells).resize((64, 48), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [
        Example(f"image-{i}", picture(i), captions=(text, "a red heart", SAID[i - 1]), domain=domain)
        for i, (text, domain) in enumerate(zip(SAID, DOMAINS, strict=True))
    ]


def written_by(records: list[Record]) -> list[str]:
    return [record.fields["written"] for record in records]


@pytest.mark.parametrize("writing", [Writing(max_new=8), Writing("seed-opt", 5, 8)], ids=["greedy", "beam5"])
def test_a_caption_does_not_depend_on_its_batch(models: Models, examples: list[Example], writing: Writing) -> None:
    suite = Captions(*models, {"llm": "0123"}, writing)
    together = suite.records(examples)
    assert [suite.records([example])[0] for example in examples] == together
    assert [record.fields["references"] for record in together] == [list(example.captions) for example in examples]
    assert len(set(written_by(together))) > 1, "a random model says different things of different pictures"
    language = models[1]
    codes = models[0].encode([example.image() for example in examples if example.image])
    if writing.beams == 1:
        assert written_by(together) == [text.strip() for text in language.generate_captions(codes, 8)]
    else:
        prompt = [language.start_token, *language.image(codes[2].tolist()), *language.words("a photo of")]
        greedy, searched = (log_probability(language, prompt, ids(language, prompt, beams)) for beams in (1, 5))
        assert searched > greedy


def ids(language: SeedLanguageModel, prompt: list[int], beams: int) -> list[int]:
    from seed_dist.models.generation import Decoding

    return language.generate([prompt], Decoding(language.tokenizer.eos_token_id, 8, beams=beams))[0]


@torch.no_grad()
def log_probability(language: SeedLanguageModel, prompt: list[int], row: list[int]) -> float:
    hidden = language.hidden(language.embed(torch.tensor([prompt + row]))).last_hidden_state
    scores = language.logits(hidden[0, len(prompt) - 1 : -1]).log_softmax(-1)
    return float(scores[torch.arange(len(row)), torch.tensor(row)].sum() / len(row))


@pytest.fixture(scope="module")
def figures(models: Models, examples: list[Example]) -> dict[str, Figure]:
    """Of captions that somebody wrote: right for two pictures of three in `in-domain`, for none elsewhere."""
    texts = [SAID[0], "a dog", SAID[2], "a red heart", "a moon"]
    records = [
        Record(example.key, {"written": text, "references": list(example.captions)})
        for example, text in zip(examples, texts, strict=True)
    ]
    return {figure.name: figure for figure in Captions(*models, {}).score(records, examples)}


def test_figures_are_those_of_the_measures(figures: dict[str, Figure], examples: list[Example]) -> None:
    texts = [SAID[0], "a dog", SAID[2], "a red heart", "a moon"]
    pairs = CaptionPairs(
        [caption_tokens(text) for text in texts],
        [[caption_tokens(text) for text in example.captions] for example in examples],
    )
    scores = bleu(pairs.bleu_statistics().sum(0))
    assert [figures[f"bleu_{n}"].value for n in (1, 2, 3, 4)] == pytest.approx(scores)
    assert figures["cider_d"].value == pytest.approx(pairs.cider_d().mean())
    assert figures["rouge_l"].value == pytest.approx(pairs.rouge_l().mean())
    assert figures["cider"].n == 5
    own = np.array([0, 2, 4])
    assert figures["rouge_l/in-domain"].value == pytest.approx(pairs.rouge_l()[own].mean())
    assert {name.partition("/")[2] for name in figures} == {"", *DOMAINS}


def test_intervals_controls_and_chance(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        if figure.name.startswith("spice") or not math.isfinite(figure.value):
            assert figure.name.startswith(("meteor", "spice"))
            assert math.isfinite(figure.value) or "not measured" in figure.note
            continue
        assert (figure.values is None) != (figure.resampled is None)
        everything = np.arange(figure.n)
        again = figure.values.mean() if figure.resampled is None else figure.resampled(everything)  # type: ignore[union-attr]
        assert again == pytest.approx(figure.value)
        assert figure.chance is not None
        assert figure.control is not None
    assert figures["bleu_1"].resampled is not None
    assert figures["bleu_1"].resampled(np.array([0, 0, 2, 2, 2])) == pytest.approx(1)
    for name in ("bleu_4", "rouge_l", "cider_d", "cider", "meteor"):
        assert math.isnan(figures[name].value) or figures[name].value > (figures[name].control or 0)


def test_the_control_is_written_of_another_picture(models: Models, examples: list[Example]) -> None:
    """What is right of its own picture and of no other is worth nothing there."""
    texts = [f"w{i}a w{i}b w{i}c w{i}d" for i in range(5)]
    own = [Example(e.key, e.image, captions=(text,)) for e, text in zip(examples, texts, strict=True)]
    records = [Record(e.key, {"written": e.captions[0], "references": list(e.captions)}) for e in own]
    found = {figure.name: figure for figure in Captions(*models, {}).score(records, own)}
    assert found["cider_d"].value == pytest.approx(10)
    assert (found["cider_d"].control, found["rouge_l"].control) == (0, 0)
    assert found["rouge_l"].chance == pytest.approx(1 / 5)


def test_what_does_not_fit_is_refused(models: Models, examples: list[Example]) -> None:
    protocols = {str(Captions(*models, {}, Writing(prompt)).protocol) for prompt in PROMPTS}
    assert len(protocols) == len(PROMPTS)
    with pytest.raises(ConfigError, match=r"3 configuration problem.*(?s:.)*'x'; there are none, seed-opt"):
        Writing("x", 0, 0)
    with pytest.raises(DataError, match="image-9 has no picture or no caption"):
        Captions(*models, {}).records([Example("image-9", examples[0].image)])
