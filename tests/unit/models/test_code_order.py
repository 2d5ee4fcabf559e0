"""The shuffled order of codes: a control that loses nothing, and that the language model takes back when it writes."""

import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.models.code_order import as_encoded, as_written, places
from seed_dist.models.language import SeedLanguageModel
from tests.unit.eval.tiny_workspace import frozen_models

QUERIES, CODES = 6, 20


@pytest.mark.parametrize("queries", [1, 6, 16, 32])
def test_the_shuffle_is_undone_and_the_same_for_all_images(queries):
    codes = torch.arange(3 * queries).view(3, queries)
    shuffled = as_written(codes, "permuted")
    assert torch.equal(as_encoded(shuffled, "permuted"), codes)
    assert torch.equal(shuffled - shuffled[:, :1], (shuffled - shuffled[:, :1])[:1].expand(3, -1))
    assert sorted(places("permuted", queries).tolist()) == list(range(queries))
    assert torch.equal(as_written(codes, "causal"), codes)


def test_the_shuffle_of_sixteen_moves_most_and_turns_nothing_around():
    moved = places("permuted", 16)
    assert int((moved == torch.arange(16)).sum()) <= 3
    assert abs(float(torch.corrcoef(torch.stack([moved.double(), torch.arange(16).double()]))[0, 1])) < 0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same untrained model in both orders."""
    overrides = ("lora.rank=2", *frozen_models(tmp_path_factory.mktemp("frozen")))
    made = []
    for order in ("causal", "permuted"):
        recipe = load_recipe("glyphs", (*overrides, f"lora.code_order={order}"))
        torch.manual_seed(0)
        made.append(SeedLanguageModel(recipe.backbones.language_model, CODES, recipe.lora).eval())
    return made


def test_training_rows_hold_the_same_codes_in_another_order(models):
    causal, permuted = models
    codes = torch.arange(QUERIES)[None] + 3
    rows = [model.sequences(["a red star"], codes, torch.tensor([False]))["ids"][0] for model in models]
    image = slice(2, 2 + QUERIES)  # after the start and the begin mark
    assert torch.equal(rows[0][image] - causal.first_code, codes[0])
    assert torch.equal(rows[1][image] - permuted.first_code, as_written(codes, "permuted")[0])
    assert torch.equal(rows[0][QUERIES + 2 :], rows[1][QUERIES + 2 :])


def test_what_is_written_shuffled_is_read_back_by_position(models):
    _, permuted = models
    codes = torch.tensor([4, 9, 1, 0, 19, 7])
    written = [permuted.first_code + code for code in as_written(codes, "permuted").tolist()]
    row = [permuted.begin_image, *written, permuted.end_image]
    assert permuted.valid_codes(row, QUERIES) == codes.tolist()


def test_forced_images_are_always_images_and_free_ones_of_an_untrained_model_are_not(models):
    captions = ["a red star on white", "a blue moon on black", "a ring on grey"]
    for model in models:
        free = [model.valid_codes(row, QUERIES) for row in model.generate_images(captions, QUERIES)]
        forced = [model.valid_codes(row, QUERIES) for row in model.generate_images(captions, QUERIES, True)]
        assert free == [None] * 3
        assert all(codes is not None and len(codes) == QUERIES for codes in forced)


def test_forcing_changes_nothing_that_was_an_image_anyway(models, monkeypatch):
    """A model that only ever prefers the next token of one image writes the same with and without force."""
    model, codes = models[0], [3, 5, 8, 1, 0, 2]
    image = [model.begin_image, *(model.first_code + code for code in codes), model.end_image]
    calls = iter([*image, *image[1:]])  # with force the begin mark is given

    def prefers(hidden):
        scores = torch.zeros(len(hidden), model.end_image + 1)
        scores[:, next(calls)] = 1
        return scores

    monkeypatch.setattr(model, "logits", prefers)
    assert model.generate_images(["a red star"], QUERIES) == [image]
    assert model.generate_images(["a red star"], QUERIES, True) == [image]
