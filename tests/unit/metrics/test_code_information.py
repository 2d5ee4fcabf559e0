"""Entropies of known distributions, and that what is told of words is nothing for shuffled captions."""

import numpy as np
import pytest

from seed_dist.metrics.code_information import entropy_bits, frequent_words, mutual_information_bits, told_of_words


def test_known_entropies_and_information():
    assert entropy_bits(np.array([4, 4, 4, 4, 0])) == pytest.approx(2)
    assert entropy_bits(np.array([9])) == 0
    codes = np.array([0, 0, 1, 1])
    has_word = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], float)  # the first word is the code, the second is a coin
    assert mutual_information_bits(codes, has_word) == pytest.approx([1, 0])


def test_words_are_those_that_tell_texts_apart():
    words, has_word = frequent_words(["a red dog", "a red cat", "a blue dog", "a green dog"], most=2)
    assert words == ["red", "blue"]  # "a" stands in all; of equally even ones the first in the alphabet
    assert has_word.tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]]


def test_the_estimate_sees_what_is_there_and_nothing_in_shuffled_captions():
    """With nearly as many codes as examples the plug-in estimate of nothing is far from 0; the corrected one is not."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 300, 1000)
    is_odd = (codes % 2).astype(float)
    coin = generator.integers(0, 2, 1000).astype(float)
    assert mutual_information_bits(codes, coin[:, None])[0] > 0.15
    told, shuffled = told_of_words(codes, is_odd[:, None], 0)
    assert told == pytest.approx(1)
    assert abs(shuffled) < 0.03
    told, shuffled = told_of_words(codes, coin[:, None], 0)
    assert abs(told) < 0.03
