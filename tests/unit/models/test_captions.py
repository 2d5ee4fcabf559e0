"""Captions to token ids: the published clean-up, cutting and padding."""

from __future__ import annotations

import pytest

from seed_dist.errors import ConfigError
from seed_dist.glyphs.vocabulary import save_tokenizer
from seed_dist.models.captions import CaptionTokenizer, clean_caption, exchanged


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A red Star.", "a red star"),
        ('"two"  dogs (#1): run;~', "two dogs 1 run"),
        ("it's, well - fine?", "it's, well - fine?"),
        ("", ""),
        ("w " * 60, ("w " * 50).strip()),
    ],
)
def test_clean_up(caption, cleaned):
    assert clean_caption(caption) == cleaned


@pytest.fixture
def folder(tmp_path):
    save_tokenizer(tmp_path)
    return str(tmp_path)


def test_class_token_first_and_padding_to_the_longest(folder):
    tokenizer = CaptionTokenizer(folder, max_tokens=16)
    ids, mask = tokenizer(["a red star on white.", "A Star"])
    assert ids.shape == mask.shape == (2, 7)
    assert mask.sum(1).tolist() == [7, 4]
    assert ids[0, 0] == ids[1, 0]
    assert (ids[1, 4:] == ids[1, -1]).all()
    assert ids.max() < len(tokenizer)


def test_long_captions_are_cut(folder):
    ids, mask = CaptionTokenizer(folder, max_tokens=5)(["a red star on white on black on grey"])
    assert ids.shape == (1, 5)
    assert mask.sum() == 5


def test_an_empty_caption_has_tokens(folder):
    _, mask = CaptionTokenizer(folder, max_tokens=16)(["", "..."])
    assert (mask.sum(1) >= 1).all()


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        CaptionTokenizer(str(tmp_path / "nowhere"), 16)


def test_exchanged_captions_say_the_same_words_of_something_else() -> None:
    caption = "a red star left of a blue moon on white"
    assert exchanged(caption, 1) == "a blue star left of a red moon on white"
    assert exchanged(caption, 2) == "a blue moon left of a red star on white"
    assert exchanged("a red star above a red moon on white", 1) == "a red moon above a red star on white"


def test_a_caption_without_two_equal_words_cannot_be_exchanged() -> None:
    assert exchanged("a red star on white", 1) is None
    assert exchanged("", 1) is None
