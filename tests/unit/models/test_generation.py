"""Continuations: in a batch as alone, images as they must be, and limits that are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from seed_dist.errors import DataError
from seed_dist.models.generation import Decoding, WholeImages
from seed_dist.models.language import SeedLanguageModel
from tests.languages import FAMILIES, POSITIONS, QUERIES, VARIANTS, language_model, save_language

KINDS = [(family, variant) for family in FAMILIES for variant in VARIANTS]
NEVER = -1  # a stop token that no model writes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SeedLanguageModel]:
    bases: dict[str, Path] = {family: save_language(tmp_path_factory.mktemp(family), family) for family in FAMILIES}
    return {(family, variant): language_model(bases[family], family, variant) for family, variant in KINDS}


def prompts_of(model: SeedLanguageModel) -> list[list[int]]:
    """Words, one image, two images with words between them, one token alone."""
    start = model.start_token
    return [
        [start, *model.words("a red heart above a blue star")],
        [start, *model.image([1, 2, 3])],
        [start, *model.image([4, 5, 6]), *model.words("a green moon"), *model.image([7, 8, 9]), *model.words("a")],
        [start],
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constrained", [False, True])
def test_a_batch_of_mixed_lengths_is_each_prompt_alone(
    kind: tuple[str, str], constrained: bool, models: dict[tuple[str, str], SeedLanguageModel]
) -> None:
    model = models[kind]
    decoding = Decoding(NEVER, 20, model.whole_images(QUERIES) if constrained else None)
    prompts = prompts_of(model)
    together = model.generate(prompts, decoding)
    assert together == [model.generate([prompt], decoding)[0] for prompt in prompts]
    assert [len(row) for row in together] == [20] * 4
    assert len({tuple(row) for row in together}) == 4
    stop = together[0][5]
    stopped = model.generate(prompts, dataclasses.replace(decoding, stop=stop))
    assert stopped == [row[: row.index(stop) + 1] if stop in row else row for row in together]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_what_a_whole_pass_gives(
    kind: tuple[str, str], models: dict[tuple[str, str], SeedLanguageModel]
) -> None:
    """Each token is the most likely one after all before it, by the path that training takes."""
    model = models[kind]
    for prompt in prompts_of(model):
        row = model.generate([prompt], Decoding(NEVER, 12))[0]
        with torch.no_grad():
            hidden = model.hidden(model.embed(torch.tensor([prompt + row]))).last_hidden_state
            best = model.logits(hidden)[0, len(prompt) - 1 : -1].argmax(-1)
        assert best.tolist() == row


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_end_where_positions_end_each_by_itself(
    family: str, models: dict[tuple[str, str], SeedLanguageModel]
) -> None:
    model = models[family, "rows"]
    long, short = [model.start_token] * (POSITIONS - 2), [model.start_token]
    rows = model.generate([long, short], Decoding(NEVER, 30))
    assert [len(row) for row in rows] == [3, 30]  # the last token is not fed back
    assert rows == [model.generate([prompt], Decoding(NEVER, 30))[0] for prompt in (long, short)]
    with pytest.raises(DataError, match=f"{POSITIONS + 1} tokens, but this language model has {POSITIONS} positions"):
        model.generate([[model.start_token] * (POSITIONS + 1)], Decoding(NEVER, 1))
    assert model.generate([], Decoding(NEVER, 1)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_forced_images_are_images(kind: tuple[str, str], models: dict[tuple[str, str], SeedLanguageModel]) -> None:
    model = models[kind]
    captions = ["a red heart", "a blue star above a green moon", "a"]
    free, forced = (model.generate_images(captions, QUERIES, force_image=force) for force in (False, True))
    assert all(model.valid_codes(row, QUERIES) is None for row in free)  # an untrained model's
    codes = [model.valid_codes(row, QUERIES) for row in forced]
    assert all(row is not None and len(row) == QUERIES for row in codes)
    assert len({tuple(row or ()) for row in codes}) > 1


def test_the_grammar_of_images() -> None:
    """3 words, 4 codes (3 to 6), begin 7, end 8; images of 2 codes."""
    grammar, words, codes, begin, end = WholeImages(3, 4, 2), [0, 1, 2], [3, 4, 5, 6], 7, 8
    cases = [
        ([0, 1, 2, 0, 1], [*words, begin]),
        ([0, 1, 2, 0, begin], codes),
        ([0, 1, 2, begin, 4], codes),
        ([0, 1, begin, 4, 5], [end]),
        ([0, begin, 4, 5, end], [*words, begin]),
        ([begin, 4, 5, end, begin], codes),
        ([4, 5, end, begin, 6], codes),
    ]
    scores = torch.randn(len(cases), 9)
    allowed = grammar(torch.tensor([ids for ids, _ in cases]), scores)
    for row, (ids, expected) in enumerate(cases):
        assert torch.isfinite(allowed[row]).nonzero().flatten().tolist() == expected, ids
        assert torch.equal(allowed[row, expected], scores[row, expected])


def test_drawing_is_a_function_of_the_seed_and_keeps_to_the_grammar(
    models: dict[tuple[str, str], SeedLanguageModel],
) -> None:
    model = models["llama", "rows"]
    prompts = [[model.start_token, model.begin_image]] * 40
    decoding = Decoding(model.end_image, QUERIES + 1, model.whole_images(QUERIES), temperature=1.0, seed=1)
    rows = model.generate(prompts, decoding)
    assert rows == model.generate(prompts, decoding)
    assert rows != model.generate(prompts, dataclasses.replace(decoding, seed=2))
    assert all(model.valid_codes([model.begin_image, *row], QUERIES) for row in rows)
    assert len({tuple(row) for row in rows}) > 10
    narrow = model.generate(prompts, dataclasses.replace(decoding, top_p=1e-6))
    assert narrow == model.generate(prompts, dataclasses.replace(decoding, temperature=0.0))


def test_captions_are_words_alone(models: dict[tuple[str, str], SeedLanguageModel]) -> None:
    for model in models.values():
        written = model.generate_captions(torch.tensor([[1, 2, 3], [4, 5, 6]]), max_words=8)
        vocabulary = set(model.tokenizer.get_vocab()) - set(model.tokenizer.all_special_tokens)
        assert {word for text in written for word in text.split()} <= vocabulary
