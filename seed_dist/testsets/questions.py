"""Examples of sets of questions with the answers that people gave, or with GQA's one answer.

VQA v2 and OK-VQA keep questions and annotations in two files joined by question_id; VizWiz has one list with a question
per picture; GQA one object with a question per id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seed_dist.data.text_table import read_document
from seed_dist.testsets.example import Example
from seed_dist.testsets.picture_file import PictureFile, picture_below

Entry = dict[str, Any]
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # what bytes that are no UTF-8 become, and broken escapes of JSON


def vqa(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """VQA v2 and OK-VQA over COCO's val2014. Kinds of questions are named as the annotations' `question_types` has it,
    where it is a table (OK-VQA: "one" is "Vehicles and Transportation")."""
    document = read_document(files[1])
    questions = _by_id(files[0], read_document(files[0]), "questions", problems)
    annotations = _by_id(files[1], document, "annotations", problems)
    problems += [f"{files[1]}: question_id {key}: no such question" for key in annotations if key not in questions]
    names = document.get("question_types") if isinstance(document, dict) else None
    names = names if isinstance(names, dict) else {}
    examples = []
    for key, question in questions.items():
        where = f"{files[0]}: question_id {key}"
        annotation = annotations.get(key)
        if annotation is None:
            problems.append(f"{where}: no annotation in {files[1].name}")
            continue
        number = question.get("image_id")
        if type(number) is not int or annotation.get("image_id") != number:
            problems.append(f"{where}: image_id is {number!r}, in {files[1].name} {annotation.get('image_id')!r}")
            continue
        kind = _text(annotation, "question_type", where, problems)
        examples.append(
            Example(
                key,
                PictureFile(str(images / f"COCO_val2014_{number:012d}.jpg")),
                question=_text(question, "question", where, problems),
                answers=_answers(annotation, f"{files[1]}: question_id {key}", problems),
                domain=_text(annotation, "answer_type", where, problems),
                question_type=str(names.get(kind, kind)),
            )
        )
    return examples


def vizwiz(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """Named by their pictures: each has one question."""
    examples = []
    for number, entry in _objects(files[0], read_document(files[0]), "a list", problems):
        where = f"{files[0]}: entry {number}"
        name = _text(entry, "image", where, problems)
        question, answers = _text(entry, "question", where, problems), _answers(entry, where, problems)
        kind = _text(entry, "answer_type", where, problems)
        if (picture := _picture(images, name, where, problems)) is not None:
            examples.append(Example(Path(name).stem, picture, question=question, answers=answers, domain=kind))
    return examples


def gqa(files: Sequence[Path], images: Path, split: str, problems: list[str]) -> list[Example]:
    """`domain` is GQA's answer type: open for its structural type `query`, else binary (its own eval.py)."""
    document = read_document(files[0])
    if not isinstance(document, dict):
        problems.append(f"{files[0]} is {type(document).__name__}, not an object with a question per id")
        return []
    examples = []
    for key, entry in document.items():
        where = f"{files[0]}: question {key}"
        if not isinstance(entry, dict):
            problems.append(f"{where}: {type(entry).__name__}, not an object")
            continue
        types = entry.get("types")
        kind = _text(types if isinstance(types, dict) else {}, "structural", f"{where}: types", problems)
        question, answer = (_text(entry, name, where, problems) for name in ("question", "answer"))
        picture = _picture(images, f"{_text(entry, 'imageId', where, problems)}.jpg", where, problems)
        if picture is not None:
            domain = "open" if kind == "query" else "binary"
            examples.append(
                Example(key, picture, question=question, answers=(answer,), domain=domain, question_type=kind)
            )
    return examples


def _by_id(path: Path, document: Any, name: str, problems: list[str]) -> dict[str, Entry]:
    """The objects of a document's list `name`, by question_id, in order."""
    entries = document.get(name) if isinstance(document, dict) else None
    found: dict[str, Entry] = {}
    for number, entry in _objects(path, entries, f"an object with a list {name!r}", problems):
        key = entry.get("question_id")
        if type(key) not in (int, str):
            problems.append(f"{path}: {name} {number}: question_id is {key!r}")
        elif str(key) in found:
            problems.append(f"{path}: question_id {key} stands there twice")
        else:
            found[str(key)] = entry
    return found


def _objects(path: Path, entries: Any, form: str, problems: list[str]) -> Iterator[tuple[int, Entry]]:
    """The objects of a list with their numbers from 1."""
    if not isinstance(entries, list):
        problems.append(f"{path} is not {form} of objects")
        return
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            yield number, entry
        else:
            problems.append(f"{path}: entry {number} is {type(entry).__name__}, not an object")


def _answers(entry: Entry, where: str, problems: list[str]) -> tuple[str, ...]:
    answers = entry.get("answers")
    if not isinstance(answers, list) or not answers:
        problems.append(f"{where}: answers are {answers!r:.40}, not a list of at least one")
        return ()
    return tuple(_text(item if isinstance(item, dict) else {}, "answer", where, problems) for item in answers)


def _text(entry: Entry, name: str, where: str, problems: list[str]) -> str:
    value = entry.get(name)
    if isinstance(value, str) and not _HALF_CHARACTER.search(value):
        return value
    problems.append(f"{where}: {name} is {value!r:.40}, not a text")
    return ""


def _picture(images: Path, name: str, where: str, problems: list[str]) -> PictureFile | None:
    picture = picture_below(images, name)
    if picture is None:
        problems.append(f"{where}: picture {name!r:.80} is not below {images}")
    return picture
