"""BLEU, ROUGE-L and CIDEr of captions against several references each, as COCO's evaluation computes them.

Equal to pycocoevalcap 1.2 to within rounding, its oddities included, but over whole arrays of word numbers. Captions
are tokens with a blank between them (`seed_dist.metrics.caption_tokens`).

BLEU: Papineni et al. 2002, with the reference length that is closest, and for ties the shorter one. ROUGE-L: Lin 2004,
beta 1.2. CIDEr: Vedantam et al. 2015 (arXiv 1411.5726); what tables call CIDEr is CIDEr-D, its variant that
clips counts and punishes differences in length with sigma 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ORDERS = 4  # n-grams of one to four words
_SMALL, _TINY = 1e-9, 1e-15  # what pycocoevalcap adds so that nothing is divided by zero
_BETA = 1.2
_SIGMA = 6.0


@dataclass(frozen=True)
class _Counts:
    """How often an n-gram occurs in a text, for each pair that occurs: int64 [pairs], sorted by text, then n-gram."""

    text: Ints
    gram: Ints
    count: Ints
    grams: int  # different ones in all texts


class CaptionPairs:
    """One caption and one to many references for each of n images; document frequencies come from all references."""

    def __init__(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Raises ValueError where captions and images are not equally many, or an image has no reference."""
        if len(written) != len(references) or not all(references):
            raise ValueError(f"{len(written)} captions and {len(references)} images, each with at least one reference")
        self._written = list(written)
        self._references = [list(texts) for texts in references]
        self.images = len(written)
        # Texts: first all captions, then all references in the order of their images.
        self._image = np.repeat(np.arange(self.images), [len(texts) for texts in references])

    def bleu_statistics(self) -> Ints:
        """What corpus BLEU is made of: int64 [n, 10], words of the caption and of the closest reference, then the
        caption's n-grams and those of them that a reference has, for n from 1 to 4. Sums of rows are such a row."""
        lengths = self._lengths[: self.images]
        distance = np.abs(self._lengths[self.images :] - lengths[self._image])
        order = np.lexsort((self._lengths[self.images :], distance, self._image))
        closest = order[np.searchsorted(self._image, np.arange(self.images))]
        parts = [lengths, self._lengths[self.images :][closest]]
        for n, counts in enumerate(self._counts, 1):
            parts += [np.maximum(lengths - n + 1, 0), self._matches(counts)]
        return np.stack(parts, axis=1)

    def rouge_l(self) -> Floats:
        """ROUGE-L of each image, float64 [n]: the best precision and the best recall of any reference."""
        return np.array([_rouge_l(*pair) for pair in zip(self._written, self._references, strict=True)], np.float64)

    def cider_d(self) -> Floats:
        """CIDEr-D of each image, float64 [n], times 10 as usual; its mean is what tables call CIDEr."""
        # Length is the number of word pairs: so it is in pycocoevalcap, and one less for both changes nothing.
        pairs = np.maximum(self._lengths - 1, 0)
        penalty = np.exp(-((pairs[self._image] - pairs[self.images :]) ** 2) / (2 * _SIGMA**2))
        return self._cider(clipped=True, penalty=penalty)

    def cider(self) -> Floats:
        """CIDEr of each image without clipping and without regard to length, float64 [n], times 10."""
        return self._cider(clipped=False, penalty=np.ones(len(self._image)))

    def most_typical(self) -> str:
        """The reference that, as the caption of every image, has the highest mean CIDEr; the first one of equals."""
        weight = 1 / np.bincount(self._image, minlength=self.images)[self._image]
        total = np.zeros(len(self._image))
        for counts in self._counts:
            weights, norms = self._weights(counts)
            theirs = counts.text >= self.images
            reference, gram = counts.text[theirs] - self.images, counts.gram[theirs]
            unit = weights[theirs] / np.maximum(norms[counts.text[theirs]], _TINY)
            centre = np.bincount(gram, unit * weight[reference], minlength=counts.grams)
            total += np.bincount(reference, unit * centre[gram], minlength=len(self._image))
        return [text for texts in self._references for text in texts][int(total.argmax())]

    def _cider(self, clipped: bool, penalty: Floats) -> Floats:
        total = np.zeros(len(self._image))
        for counts in self._counts:
            weights, norms = self._weights(counts)
            in_reference = counts.text >= self.images
            reference = counts.text[in_reference] - self.images
            theirs = weights[in_reference]
            ours = _looked_up(counts, weights, self._image[reference], counts.gram[in_reference])
            products = (np.minimum(ours, theirs) if clipped else ours) * theirs
            similarity = np.bincount(reference, products, len(self._image)).astype(np.float64)
            scale = norms[self._image] * norms[self.images :]
            total += np.divide(similarity, scale, out=similarity, where=scale != 0)
        by_image = np.bincount(self._image, total * penalty, minlength=self.images)
        return np.asarray(10 * by_image / ORDERS / np.bincount(self._image, minlength=self.images), np.float64)

    def _weights(self, counts: _Counts) -> tuple[Floats, Floats]:
        """TF-IDF of each n-gram of a text, and each text's norm. IDF: log of images over images whose references have
        the n-gram; one that none has counts as in one."""
        in_reference = counts.text >= self.images
        image, gram = self._image[counts.text[in_reference] - self.images], counts.gram[in_reference]
        frequency = np.bincount(np.unique(image * counts.grams + gram) % counts.grams, minlength=counts.grams)
        idf = np.log(self.images) - np.log(np.maximum(frequency, 1))
        weights = counts.count * idf[counts.gram]
        return weights, np.sqrt(np.bincount(counts.text, weights**2, minlength=len(self._lengths)))

    def _matches(self, counts: _Counts) -> Ints:
        """N-grams of each caption that a reference has too, each at most as often as in the one with most."""
        in_reference = counts.text >= self.images
        key = self._image[counts.text[in_reference] - self.images] * counts.grams + counts.gram[in_reference]
        keys, inverse = np.unique(key, return_inverse=True)
        most = np.zeros(len(keys) + 1, np.int64)
        np.maximum.at(most, inverse, counts.count[in_reference])
        image = counts.text[~in_reference]
        own = image * counts.grams + counts.gram[~in_reference]
        place = np.searchsorted(keys, own)
        found = np.append(keys, -1)[place] == own
        matched = np.where(found, np.minimum(counts.count[~in_reference], most[place]), 0)
        return np.bincount(image, matched, minlength=self.images).astype(np.int64)

    @cached_property
    def _texts(self) -> list[list[str]]:
        # At any blank, the no-break one within "1 1/2" included: as pycocoevalcap does, except for ROUGE-L.
        return [text.split() for text in (*self._written, *(text for texts in self._references for text in texts))]

    @cached_property
    def _lengths(self) -> Ints:
        return np.array([len(words) for words in self._texts], np.int64)

    @cached_property
    def _counts(self) -> list[_Counts]:
        """For n from 1 to 4."""
        numbers: dict[str, int] = {}
        word = np.array([numbers.setdefault(word, len(numbers)) for words in self._texts for word in words], np.int64)
        text = np.repeat(np.arange(len(self._texts)), self._lengths)
        gram, found = word, []
        for n in range(1, ORDERS + 1):
            if n > 1:  # an n-gram is the one before it and one more word of the same text
                same = text[n - 1 :] == text[: len(text) - n + 1]
                joined = gram[: len(same)][same] * len(numbers) + word[n - 1 :][same]
                unique, inverse = np.unique(joined, return_inverse=True)
                gram = np.full(len(same), -1, np.int64)
                gram[same] = inverse
                grams = len(unique)
            else:
                same, grams = np.ones(len(word), bool), len(numbers)
            pairs, count = np.unique(text[: len(same)][same] * max(grams, 1) + gram[same], return_counts=True)
            found.append(_Counts(pairs // max(grams, 1), pairs % max(grams, 1), count, max(grams, 1)))
        return found


def bleu(statistics: Ints) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus from the sum of its rows of `bleu_statistics`, int64 [10]."""
    length, reference, *counts = (float(value) for value in statistics)
    ratio = (length + _TINY) / (reference + _SMALL)
    brevity = np.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(ORDERS):
        guessed, matched = counts[2 * n], counts[2 * n + 1]
        product *= (matched + _TINY) / (guessed + _SMALL)
        scores.append(float(product ** (1 / (n + 1)) * brevity))
    return scores


def _looked_up(counts: _Counts, values: Floats, text: Ints, gram: Ints) -> Floats:
    """Values of (text, gram) pairs, 0 for those that do not occur."""
    keys, wanted = counts.text * counts.grams + counts.gram, text * counts.grams + gram
    place = np.searchsorted(keys, wanted)
    return np.where(np.append(keys, -1)[place] == wanted, np.append(values, 0)[place], 0)


def _rouge_l(written: str, references: list[str]) -> float:
    """An empty text is one empty word: so it is in pycocoevalcap."""
    words = written.split(" ")
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    texts = [reference.split(" ") for reference in references]
    common = [_longest_common(places, len(words), text) for text in texts]
    precision, recall = max(common) / len(words), max(c / len(text) for c, text in zip(common, texts, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(places: dict[str, int], length: int, words: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table being the bits of one number (Hyyrö 2004,
    "Bit-parallel LCS-length computation revisited"). `places`: where in the other text a word stands, as bits."""
    full = (1 << length) - 1
    row = full
    for word in words:
        if matches := row & places.get(word, 0):
            row = (row + matches | row - matches) & full
    return length - row.bit_count()
