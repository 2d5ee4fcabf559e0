"""Accuracy of short answers to questions about pictures, by the rules of the published evaluations.

VQA v2 (Goyal et al. 2017, arXiv 1612.00837; https://visualqa.org/evaluation.html and the script there), also used for
OK-VQA and VizWiz: an answer is compared with those of ten people. GQA (Hudson and Manning 2019, arXiv 1902.09506):
with one answer. The oddities of the script are kept, since published figures contain them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the script passes re.UNICODE, which is 32, where `sub` takes the count
# Each is also recognised with exactly one of its apostrophes left out.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905 - 90 words in quotes would be harder to read
_CONTRACTIONS = {
    word[: match.start()] + word[match.end() :]: word for word in _CONTRACTED for match in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # the other way round in the script


@lru_cache(maxsize=1 << 16)  # people give the same answers again and again
def normalised(answer: str) -> str:
    """An answer as it is compared: punctuation, case, number words, articles and contractions made alike.

    A mark beside a space, or in an answer with a comma between digits, vanishes; any other becomes a space. A period
    vanishes where no digit follows.
    """
    return _plain_words(_without_punctuation(answer))


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """0 to 1: the mean, over leaving out each of people's `answers` in turn, of min(1, equal ones among the rest / 3).

    Answers are normalised only where people disagree. So where all gave the same, a capital letter makes an answer
    wrong.
    """
    answer, answers = _on_one_line(answer), [_on_one_line(given) for given in answers]
    if len(set(answers)) > 1:
        answer, answers = normalised(answer), [normalised(given) for given in answers]
    return _leaving_each_out(answer, answers)


def vqa_accuracy_lavis(answer: str, answers: Sequence[str]) -> float:
    """`vqa_accuracy` as LAVIS computes it, in which BLIP-2 was measured: the answer is always normalised, of people's
    only the punctuation, where they disagree (https://github.com/salesforce/LAVIS, lavis/common/vqa_tools)."""
    if len(set(answers)) > 1:
        answers = [_without_punctuation(given) for given in answers]
    return _leaving_each_out(normalised(_on_one_line(answer)), answers)


def exact_match(answer: str, truth: str) -> float:
    """1 where the answer is GQA's, else 0. GQA's own script compares texts as they are, for models that choose from a
    list; as in LAVIS a written answer is normalised first, and here the true one too."""
    return float(normalised(_on_one_line(answer)) == normalised(_on_one_line(truth)))


def _leaving_each_out(answer: str, answers: Sequence[str]) -> float:
    equal, people = sum(given == answer for given in answers), len(answers)
    without_an_equal, without_another = min(1.0, (equal - 1) / 3), min(1.0, equal / 3)
    return (equal * without_an_equal + (people - equal) * without_another) / people if people else 0.0


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def _without_punctuation(text: str) -> str:
    has_comma_between_digits = _DIGITS_WITH_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        vanishes = has_comma_between_digits or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def _plain_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
