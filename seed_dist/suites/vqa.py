"""Suite `vqa`: the language model reads a picture's codes and a question, and answers (SEED, Table 3)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seed_dist.errors import DataError
from seed_dist.metrics.vqa import exact_match, normalised, vqa_accuracy, vqa_accuracy_lavis
from seed_dist.models.generation import Decoding
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.pixels import DECODING
from seed_dist.suites.prompts import PROMPTS, Prompt
from seed_dist.suites.suite import Figure, Floats, Record
from seed_dist.testsets.example import Example

Rule = Callable[[str, Sequence[str]], float]  # an answer and the true ones -> 0 to 1


@dataclass(frozen=True)
class Answering:
    """How questions are asked and answers are searched: greedily with one beam. The defaults of length and penalty are
    those of BLIP-2's evaluation (`max_len` and `length_penalty` of LAVIS; arXiv 2301.12597, section 4.1)."""

    prompt: Prompt = PROMPTS["seed-opt"]
    beams: int = 1
    length_penalty: float = -1.0
    max_new: int = 10


class Questions:
    """Answers end with their first line. Several true answers are compared by VQA's rule, a single one by GQA's.

    `control` is the same on a picture of another example of `others`, drawn by the question's key: what the question
    alone gives. `chance` is the answer that people of this very set gave most often, always.
    """

    name = "vqa"

    def __init__(
        self,
        tokenizer: SeedTokenizer,
        language: ImageLanguage,
        models: dict[str, Any],
        answering: Answering,
        others: Sequence[Example] = (),
    ) -> None:
        """`models`: SHA-256 of all that takes part. Without `others` there is no control."""
        self._tokenizer, self._language, self._answering, self._others = tokenizer, language, answering, others
        self.models = models
        self.protocol: dict[str, Any] = {
            "answering": {**asdict(answering), "ends": "first line"},
            "pictures": {"decoding": DECODING, **tokenizer.processor.details()},
            "rules": {"several answers": "VQA v2, leave one out", "one answer": "GQA, both normalised"},
            "control": {"picture": "of another example, by SHA-256 of the key", "among": len(others)},
        }

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Fields: question, answer, answers, score; control_answer and control_score where there is a control."""
        if silent := [example.key for example in examples if not example.answers or example.image is None]:
            raise DataError(
                f"vqa needs a picture, a question and its answers, which {silent[0]} does not have; choose another set."
            )
        answers = self._answers(examples, [example.image for example in examples])
        controls = self._answers(examples, [self._other_image(example) for example in examples])
        return [_record(*both) for both in zip(examples, answers, controls, strict=True)]

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        """Accuracy of all questions, of each kind of answer and each type of question; values are per question."""
        pairs = list(zip(records, examples, strict=True))
        figures = [_accuracy("accuracy", pairs)]
        if all(len(example.answers) > 1 for example in examples):
            figures.append(_accuracy("accuracy_lavis", pairs, vqa_accuracy_lavis))
        for label, kind_of in (("accuracy", _domain), ("accuracy/question_type", _question_type)):
            kinds = sorted({kind_of(example) for example in examples} - {""})
            if len(kinds) > 1:
                figures += [_accuracy(f"{label}/{k}", [p for p in pairs if kind_of(p[1]) == k]) for k in kinds]
        return figures

    def _answers(self, examples: Sequence[Example], images: Sequence[Any]) -> list[str | None]:
        """One answer per question; None where there is no picture to ask about."""
        codes = self._codes([image for image in images if image is not None])
        asked = [i for i, image in enumerate(images) if image is not None]
        prompts = [self._tokens(examples[i].question, codes[images[i]]) for i in asked]
        how = self._answering
        stop = self._language.tokenizer.eos_token_id
        decoding = Decoding(stop, how.max_new, beams=how.beams, length_penalty=how.length_penalty)
        written = self._language.generate(prompts, decoding)
        found = {i: _first_line(self._language.text(row)) for i, row in zip(asked, written, strict=True)}
        return [found.get(i) for i in range(len(examples))]

    def _codes(self, images: Sequence[Callable[[], Any]]) -> dict[Any, list[int]]:
        """The codes of each picture; several questions are often about the same one."""
        distinct = list(dict.fromkeys(images))
        if not distinct:
            return {}
        return dict(zip(distinct, self._tokenizer.encode([image() for image in distinct]).tolist(), strict=True))

    def _tokens(self, question: str, codes: Sequence[int]) -> list[int]:
        language, prompt = self._language, self._answering.prompt
        before = language.words(prompt.before) if prompt.before else []
        after = language.words(prompt.after.replace("{}", question.strip(), 1))
        return [language.start_token, *before, *language.image(codes), *after]

    def _other_image(self, example: Example) -> Any:
        """A picture that is not the example's own: a function of its key and of the whole set, not of the batch."""
        count = len(self._others)
        first = int.from_bytes(hashlib.sha256(example.key.encode()).digest()[:8], "big")
        images = (self._others[(first + step) % count].image for step in range(count))
        return next((image for image in images if image is not None and image != example.image), None)


def _record(example: Example, answer: str | None, control: str | None) -> Record:
    fields: dict[str, Any] = {"question": example.question, "answers": list(example.answers)}
    fields |= {"answer": answer or "", "score": _score(answer or "", example.answers)}
    if control is not None:
        fields |= {"control_answer": control, "control_score": _score(control, example.answers)}
    return Record(example.key, fields)


def _score(answer: str, answers: Sequence[str]) -> float:
    return exact_match(answer, answers[0]) if len(answers) == 1 else vqa_accuracy(answer, answers)


def _accuracy(name: str, pairs: Sequence[tuple[Record, Example]], rule: Rule = _score) -> Figure:
    answers = [example.answers for _, example in pairs]
    constant = _most_frequent(answers)

    def scores(said: Sequence[str]) -> Floats:
        return np.array([rule(answer, given) for answer, given in zip(said, answers, strict=True)])

    values = scores([record.fields["answer"] for record, _ in pairs])
    controls = [record.fields["control_answer"] for record, _ in pairs if "control_answer" in record.fields]
    control = float(scores(controls).mean()) if len(controls) == len(pairs) else None
    chance = float(scores([constant] * len(pairs)).mean())
    return Figure(name, float(values.mean()), len(values), values, chance=chance, control=control)


def _most_frequent(answers: Sequence[Sequence[str]]) -> str:
    """The one answer that people gave most often; of equally frequent ones the first in the alphabet."""
    counts = Counter(normalised(answer) for given in answers for answer in given)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0].strip()


def _domain(example: Example) -> str:
    return example.domain


def _question_type(example: Example) -> str:
    return example.question_type
