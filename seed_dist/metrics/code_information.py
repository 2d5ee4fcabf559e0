"""What codes say, counted: entropy of each position, and what a code tells of the words of a caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def entropy_bits(counts: npt.NDArray[Any]) -> float:
    """Entropy of these counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def frequent_words(texts: Sequence[str], most: int = 50, least_share: float = 0.02) -> tuple[list[str], Floats]:
    """At most `most` words, the evenest first, of those in a share of `least_share` .. 1 - `least_share` of the texts;
    and for each text [N, V] whether it has them.
    """
    words = [set(text.split()) for text in texts]
    share = {word: count / len(texts) for word, count in Counter(word for own in words for word in own).items()}
    usable = [word for word, part in share.items() if least_share <= part <= 1 - least_share]
    chosen = sorted(usable, key=lambda word: (abs(share[word] - 0.5), word))[:most]
    return chosen, np.array([[word in own for word in chosen] for own in words], np.float64).reshape(len(texts), -1)


def mutual_information_bits(codes: Ints, has_word: Floats) -> Floats:
    """For each word [V], bits that codes [N] tell of whether it occurs [N, V]; the plug-in estimate, which is too high
    by about as much as codes of other pictures seem to tell.
    """
    _, places = np.unique(codes, return_inverse=True)
    with_word = np.zeros((places.max() + 1, has_word.shape[1]))
    np.add.at(with_word, places, has_word)
    count = np.bincount(places)[:, None].astype(np.float64)
    total, occurs = len(codes), has_word.sum(0)
    found = np.zeros(has_word.shape[1])
    for joint, overall in ((with_word, occurs), (count - with_word, total - occurs)):
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = joint / total * np.log2(joint * total / (count * overall))
        found += np.where(joint > 0, terms, 0.0).sum(0)
    return found


def told_of_words(codes: Ints, has_word: Floats, seed: int, shuffles: int = 8) -> tuple[float, float]:
    """Share of the words' entropy that codes [N] tell, mean over words; and the same of shuffled captions.

    Adjusted for chance as in Vinh et al. 2010, Information Theoretic Measures for Clusterings Comparison, section 4:
    (I - E) / (H - E), with E what is told of captions that are dealt out anew, the mean over `shuffles` times. So 1 is
    all, and 0 what an estimate from so few examples sees in nothing.
    """
    entropies = np.array([entropy_bits(np.array([own.sum(), len(own) - own.sum()])) for own in has_word.T])
    generator = np.random.Generator(np.random.PCG64(seed))
    nothing = [mutual_information_bits(codes, generator.permutation(has_word)) for _ in range(shuffles + 1)]
    bias = np.mean(nothing[1:], axis=0)
    room = np.maximum(entropies - bias, 1e-9)  # no room where every picture has a code of its own
    found = mutual_information_bits(codes, has_word) - bias
    return float(np.mean(found / room)), float(np.mean((nothing[0] - bias) / room))
