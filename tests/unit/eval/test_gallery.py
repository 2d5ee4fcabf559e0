"""Which codes are shown, with which images and places, and how near uses lie to the border to another code."""

import pytest
import torch

from seed_dist.errors import ConfigError
from seed_dist.eval.gallery import chosen, gallery, margins

CODES = torch.tensor([[0, 0, 1], [0, 2, 0], [0, 1, 2], [3, 0, 0]])


def test_a_code_is_shown_with_the_images_that_use_it_and_the_positions():
    (use,) = gallery(CODES, torch.full((4, 3), 0.5), 6, [1], shown=8)
    assert (use.code, use.why, use.uses, use.images, use.at) == (1, "asked for", 2, 2, [0, 1, 1])
    assert use.rows == [(0, [2]), (2, [1])]
    assert use.margin == 0.5
    (unused,) = gallery(CODES, torch.zeros(4, 3), 6, [5], shown=8)
    assert (unused.uses, unused.rows, unused.margin) == (0, [], None)
    assert [len(use.rows) for use in gallery(CODES, torch.zeros(4, 3), 6, [0], shown=3)] == [3]
    with pytest.raises(ConfigError, match="--codes has 6, but the codes of this tokenizer are 0 to 5"):
        gallery(CODES, torch.zeros(4, 3), 6, [2, 6], shown=8)


def test_the_most_and_rarest_used_and_the_least_stable_are_chosen():
    counts = torch.tensor([50, 40, 30, 0, 1, 2, 3, 20, 20, 20, 20])
    margin = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.9, 0.3, 0.5, 0.4])
    kinds = chosen(counts, margin, ())
    assert [code for code, why in kinds.items() if why == "most used"] == [0, 1, 2]
    assert [code for code, why in kinds.items() if why == "rarest used"] == [4, 5, 6]  # 3 is never used
    assert [code for code, why in kinds.items() if why == "least stable"] == [8, 10, 9]


def test_the_margin_is_that_of_the_two_nearest_codes():
    codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    assert margins(vectors, codes).tolist() == pytest.approx([1.0, 0.0, 1 - 0.25 / 2.25])
