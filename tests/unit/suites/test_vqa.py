"""Suite `vqa` over small files in VQA v2's layout: a random tokenizer and a random language model, all of it real."""

import json

import numpy as np
import pytest

from seed_dist.dist.comm import LocalComm
from seed_dist.metrics.vqa import vqa_accuracy
from seed_dist.suites.command import finish, make
from seed_dist.suites.options import Bootstrap, Request
from seed_dist.suites.places import Places
from seed_dist.suites.prompts import PROMPTS
from seed_dist.suites.selection import Options
from seed_dist.suites.vqa import Answering, Questions, _first_line
from seed_dist.testsets.example import Example
from seed_dist.testsets.opening import open_testset
from seed_dist.testsets.picture_file import PictureFile
from tests.languages import lora_options, save_language
from tests.testset_layouts import ROWS, gqa, vqav2, write_json
from tests.unit.tokenize import tiny_tokenizer

from seed_dist.models.language import SeedLanguageModel  # isort: skip  # after tests.languages

ASKED = Answering()


@pytest.fixture(scope="module", params=["opt", "llama"])
def models(request, tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer.export(folder / "tokenizer")
    torch.manual_seed(5)
    language = SeedLanguageModel(
        str(save_language(folder / "language", request.param)), 200, lora_options(request.param)
    )
    return tokenizer, language.eval()


@pytest.fixture(scope="module")
def asked(models, tmp_path_factory):
    """(suite, set, its records), made in one batch."""
    folder = tmp_path_factory.mktemp("vqav2")
    vqav2(folder, size=(64, 48))
    testset = open_testset("vqav2", folder, "val")
    suite = Questions(*models, {"llm": "0123"}, ASKED, testset.examples)
    return suite, testset, suite.records(testset.examples)


def answers(records, name="answer"):
    return [record.fields[name] for record in records]


def test_an_answer_does_not_depend_on_its_batch(asked):
    suite, testset, records = asked
    alone = [suite.records([example])[0] for example in testset.examples]
    assert [record.fields for record in alone] == [record.fields for record in records]
    assert [record.key for record in records] == [str(row[0]) for row in ROWS]


def test_answers_are_the_first_line_of_what_the_model_writes_after_the_prompt(models, asked):
    """Token by token without cache, by the model's own words and image tokens."""
    import torch

    (tokenizer, language), (_, testset, records) = models, asked
    for example, record in zip(testset.examples, records, strict=True):
        codes = tokenizer.encode([example.image()])[0].tolist()
        prompt = language.words(f"Question: {example.question} Short answer.")
        ids = [language.start_token, *language.image(codes), *prompt]
        start = len(ids)
        for _ in range(ASKED.max_new):
            with torch.inference_mode():
                hidden = language.hidden(language.embed(torch.tensor([ids]))).last_hidden_state
                ids.append(int(language.logits(hidden[0, -1]).argmax()))
            if ids[-1] == language.tokenizer.eos_token_id:
                break
        assert record.fields["answer"] == language.text(ids[start:]).strip().split("\n")[0].strip()
    assert len(set(answers(records))) > 1, "a random model says different things of different questions"


def test_beams_find_likelier_answers_whatever_the_batch(models, asked):
    _, testset, greedy = asked
    suite = Questions(*models, {}, Answering(beams=3))
    together = suite.records(testset.examples)
    assert answers(together) == [answers(suite.records([example]))[0] for example in testset.examples]
    assert answers(together) != answers(greedy)


def test_the_control_asks_about_another_picture_and_only_that(models, asked):
    suite, testset, records = asked
    images = {
        record.key: suite._other_image(example) for record, example in zip(records, testset.examples, strict=True)
    }
    for example in testset.examples:
        assert images[example.key] not in (None, example.image)
    swapped = Questions(*models, {}, ASKED)
    from dataclasses import replace

    again = swapped.records([replace(example, image=images[example.key]) for example in testset.examples])
    assert answers(again) == answers(records, "control_answer") != answers(records)
    assert "control_answer" not in again[0].fields


def test_controls_are_drawn_from_the_whole_set(models):
    examples = [Example(str(i), PictureFile(f"{i}.jpg"), answers=("x",)) for i in range(100)]
    drawn = [Questions(*models, {}, ASKED, examples)._other_image(example) for example in examples]
    assert len(set(drawn)) > 50  # of 100 draws from 100, about 63 are different


def test_an_answer_is_one_line():
    assert _first_line(" \n yes. \n\nQuestion: what else?") == "yes."


def test_scores_known_by_hand(models, asked, tmp_path):
    """People who say what the model says: k of ten equal answers score .3 k up to 1, per question and per kind."""
    _, _, records = asked
    equal = [2, 3, 10, 0]
    rows = []
    for row, record, k in zip(ROWS, records, equal, strict=True):
        said = record.fields["answer"]
        rows.append((*row[:3], [said] * k + ["zebra crossing"] * (10 - k), *row[4:]))
    vqav2(tmp_path, rows, size=(64, 48))
    testset = open_testset("vqav2", tmp_path, "val")
    suite = Questions(*models, {}, ASKED, testset.examples)
    found = suite.records(testset.examples)
    assert [record.fields["score"] for record in found] == pytest.approx([0.6, 0.9, 1, 0])
    figures = {figure.name: figure for figure in suite.score(found, testset.examples)}
    overall = figures["accuracy"]
    assert (overall.value, overall.n) == (pytest.approx(2.5 / 4), 4)
    assert np.mean(overall.values) == pytest.approx(overall.value)
    assert (figures["accuracy/yes/no"].value, figures["accuracy/yes/no"].n) == (pytest.approx(0.3), 2)
    assert figures["accuracy/number"].value == pytest.approx(0.9)
    assert figures["accuracy/question_type/how many"].n == 1
    # "zebra crossing" is said by 8, 7, 0 and 10 of ten.
    assert overall.chance == pytest.approx(0.75)
    assert overall.control == pytest.approx(np.mean([record.fields["control_score"] for record in found]))
    controls = [
        vqa_accuracy(r.fields["control_answer"], e.answers) for r, e in zip(found, testset.examples, strict=True)
    ]
    assert answers(found, "control_score") == controls


def test_one_true_answer_is_compared_as_gqa_does(models, tmp_path):
    gqa(tmp_path)
    testset = open_testset("gqa", tmp_path, "testdev")
    suite = Questions(*models, {}, ASKED, testset.examples)
    said = answers(suite.records(testset.examples))
    entries = {
        e.key: {
            "imageId": e.image.path[-6:-4], "question": e.question, "types": {"structural": e.question_type},
            "answer": f"the {text}".upper() if e.key == "200" else "zebra",
        }
        for e, text in zip(testset.examples, said, strict=True)
    }  # fmt: skip
    write_json(tmp_path / "testdev_balanced_questions.json", entries)
    testset = open_testset("gqa", tmp_path, "testdev")
    figures = {f.name: f for f in suite.score(suite.records(testset.examples), testset.examples)}
    assert figures["accuracy"].values.tolist() == [1, 0, 0]
    assert figures["accuracy/binary"].value == 0.5
    assert figures["accuracy"].chance == pytest.approx(2 / 3)
    assert "accuracy_lavis" not in figures


def test_from_options_to_the_receipt(models, asked, tmp_path):
    """Through the runner, in chunks of three; a set that is not there is a gap that says what to download."""
    vqav2(tmp_path / "data", size=(64, 48))
    models[0].save_pretrained(tmp_path / "tokenizer")
    models[1].save_pretrained(tmp_path / "llm", {})
    places = Places(tokenizer=tmp_path / "tokenizer", llm=tmp_path / "llm")
    data = (f"vqav2:{tmp_path / 'data'}", f"gqa:{tmp_path / 'data'}:val")
    request = Request(("vqa",), data, places, tmp_path / "out", Options(), Bootstrap(resamples=20), chunk=3)
    made = make(request, LocalComm())
    list(finish(request, made))
    (work,), (gap,) = made.done, made.gaps
    assert [record.fields for record in work.all_records()] == [record.fields for record in asked[2]]
    assert "val_balanced_questions.json  from https://downloads.cs.stanford.edu" in gap["why"]
    entry = json.loads((tmp_path / "out" / "receipt.json").read_text())["measurements"][0]
    assert entry["set"]["annotations_sha256"].keys() == {path.name for path in (tmp_path / "data").glob("*.json")}
    assert entry["models"].keys() == {"tokenizer", "image_encoder", "llm", "language_model"}
    figure = entry["figures"][0]
    assert (figure["name"], figure["n"]) == ("accuracy", 4)
    assert None not in (figure["chance"], figure["control"], figure["interval"])


def test_protocols_tell_prompts_apart(models):
    protocols = [Questions(*models, {}, Answering(prompt)).protocol for prompt in PROMPTS.values()]
    assert len({str(protocol) for protocol in protocols}) == len(PROMPTS)
