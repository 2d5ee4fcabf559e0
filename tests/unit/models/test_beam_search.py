"""Beam search beside transformers' own, beside all continuations there are, in a batch as alone, and with a grammar."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seed_dist.errors import ConfigError
from seed_dist.models.generation import Decoding
from seed_dist.models.language import SeedLanguageModel
from seed_dist.models.merged_language import save_merged
from tests.languages import FAMILIES, POSITIONS, QUERIES, language_model, save_language

from transformers import AutoModelForCausalLM  # isort: skip  # after seed_dist.models, whose guard it needs

NEVER = -1


@pytest.fixture(scope="module", params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeedLanguageModel, Any]:
    """Ours, and the same one as a plain transformers model."""
    folder = tmp_path_factory.mktemp(request.param)
    ours = language_model(save_language(folder / "base", request.param), request.param)
    ours.save_pretrained(folder / "export", {"step": 3})
    save_merged(folder / "export", folder / "merged")
    return ours, AutoModelForCausalLM.from_pretrained(folder / "merged").eval()


def prompts_of(model: SeedLanguageModel) -> list[list[int]]:
    start = model.start_token
    return [
        [start, *model.words("a red heart above a blue star")],
        [start, *model.image([1, 2, 3]), *model.words("a")],
        [start, *model.image([4, 5, 6]), *model.words("a green moon"), *model.image([7, 8, 9])],
        [start],
    ]


def by_transformers(plain: Any, prompts: list[list[int]], decoding: Decoding) -> list[list[int]]:
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        rows = plain.generate(
            ids,
            attention_mask=mask,
            num_beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            max_new_tokens=decoding.max_new,
            do_sample=False,
            early_stopping=False,
            eos_token_id=decoding.stop,
            pad_token_id=0,
            logits_processor=[decoding.grammar] if decoding.grammar else [],
        )[:, length:].tolist()
    return [row[: row.index(decoding.stop) + 1] if decoding.stop in row else row for row in rows]


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (5, 1.0), (5, 0.0), (5, 2.0), (3, -1.0)])
def test_transformers_finds_the_same(models: tuple[SeedLanguageModel, Any], beams: int, penalty: float) -> None:
    ours, plain = models
    prompts = prompts_of(ours)
    never = ours.generate(prompts, Decoding(NEVER, 8, beams=beams))
    for stop in (never[0][2], never[1][4], ours.tokenizer.eos_token_id):
        decoding = Decoding(stop, 8, beams=beams, length_penalty=penalty)
        found = ours.generate(prompts, decoding)
        assert found == by_transformers(plain, prompts, decoding)
        assert found == [by_transformers(plain, [prompt], decoding)[0] for prompt in prompts]


def test_a_batch_of_mixed_lengths_is_each_prompt_alone(models: tuple[SeedLanguageModel, Any]) -> None:
    ours, _ = models
    prompts = prompts_of(ours)
    greedy = ours.generate(prompts, Decoding(NEVER, 12))
    for stop in (NEVER, greedy[0][3], greedy[3][5]):
        decoding = Decoding(stop, 12, beams=5)
        together = ours.generate(prompts, decoding)
        assert together == [ours.generate([prompt], decoding)[0] for prompt in prompts]
        assert together != ours.generate(prompts, Decoding(stop, 12))
    long = [ours.start_token] * (POSITIONS - 2)
    rows = ours.generate([long, *prompts], Decoding(NEVER, 12, beams=5))
    assert [len(row) for row in rows] == [3, 12, 12, 12, 12]


@torch.no_grad()
def test_with_a_beam_for_every_token_no_continuation_is_better(models: tuple[SeedLanguageModel, Any]) -> None:
    """Of all continuations of at most two tokens, scored one by one without cache."""
    ours, _ = models
    for prompt in prompts_of(ours):
        following = ours.logits(ours.hidden(ours.embed(torch.tensor([prompt]))).last_hidden_state[0, -1])
        vocabulary = len(following)
        first = following.log_softmax(-1)
        every = torch.tensor([[*prompt, token] for token in range(vocabulary)])
        second = ours.logits(ours.hidden(ours.embed(every)).last_hidden_state[:, -1]).log_softmax(-1)
        stop = int(first.topk(3).indices[2])
        scores = {(stop,): float(first[stop])}
        for token in set(range(vocabulary)) - {stop}:
            for last in range(vocabulary):
                scores[token, last] = float(first[token] + second[token, last])
        best = max(scores, key=lambda tokens: scores[tokens])
        decoding = Decoding(stop, 2, beams=vocabulary, length_penalty=0.0)
        assert tuple(ours.generate([prompt], decoding)[0]) == best


def test_images_stay_whole_and_are_those_of_transformers(models: tuple[SeedLanguageModel, Any]) -> None:
    ours, plain = models
    prompts = [[*prompt, ours.begin_image] for prompt in prompts_of(ours)]
    decoding = Decoding(ours.end_image, QUERIES + 1, ours.whole_images(QUERIES), beams=5)
    found = ours.generate(prompts, decoding)
    assert all(ours.valid_codes([ours.begin_image, *row], QUERIES) for row in found)
    assert found == by_transformers(plain, prompts, decoding)
    assert found != ours.generate(prompts, Decoding(ours.end_image, QUERIES + 1, ours.whole_images(QUERIES)))


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"beams": 2, "temperature": 1.0}])
def test_what_beams_cannot_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"decoding has {wrong['beams']} beams and temperature"):
        Decoding(NEVER, 1, **wrong)
