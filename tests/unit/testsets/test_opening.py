"""Every published layout is read whole; whatever is wrong with it is said at once, by file and key."""

import json
from pathlib import Path

import pytest

from seed_dist.errors import ConfigError, DataError
from seed_dist.fsio import sha256_file
from seed_dist.testsets.opening import READERS, open_testset
from seed_dist.testsets.published import PUBLISHED
from tests import testset_layouts
from tests.testset_layouts import COCO_IDS, SETS, coco_name, write_json

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "testsets.md"
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


def opened(name, folder):
    write, split = SETS[name]
    write(folder)
    return open_testset(name, folder, split)


def changed(path, change):
    document = json.loads(path.read_text())
    change(document)
    write_json(path, document)


def test_every_set_has_a_reader_a_layout_and_a_table_row():
    assert READERS.keys() == PUBLISHED.keys() == SETS.keys()


def test_the_document_has_the_published_counts_and_files():
    rows = {row.split("`")[1]: row for row in DOCUMENT.read_text().splitlines() if row.startswith("| `")}
    for name, splits in PUBLISHED.items():
        assert all(split in rows[name] for split in splits)
        first = next(iter(splits.values()))
        assert all(f"`{part.places[0]}`" in rows[name] for part in first.annotations)
        assert f"`{first.images.places[0]}/`" in rows[name]
        shown = ("captions", "in-domain", "near-domain", "out-domain") if "captions" in first.counts else ("questions",)
        counts = [published.counts[key] for published in splits.values() for key in shown if key in published.counts]
        assert all(f"{count:,}" in rows[name] for count in counts)


@pytest.mark.parametrize("name", SETS)
def test_every_layout_gives_pictures_and_a_card(name, tmp_path):
    testset = opened(name, tmp_path)
    card, split = testset.card, SETS[name][1]
    assert len({example.key for example in testset.examples}) == len(testset.examples) >= 2
    for example in testset.examples:
        assert example.image().mode == "RGB"
        assert bool(example.captions) != bool(example.question and example.answers)
    assert card["counts"]["images"] == len({example.image for example in testset.examples})
    files = {path.name: sha256_file(path) for path in tmp_path.rglob("*.json")}
    assert card["annotations_sha256"] == files
    assert "were published" in card["warnings"][0]
    assert all((card["licence"], card["citation"], *card["sources"]))
    assert open_testset(name, tmp_path, split).fingerprint == testset.fingerprint


def test_captions_stay_with_their_image_and_their_split(tmp_path):
    testset = opened("coco-karpathy", tmp_path)
    assert [example.key for example in testset.examples] == [f"COCO_val2014_{i:012d}" for i in COCO_IDS]
    assert testset.examples[1].captions == tuple(f"Caption {j} of 60623." for j in range(5))
    assert testset.card["counts"] == {"images": 3, "captions": 15}
    assert testset.examples[1].image.path == str(tmp_path / "val2014" / coco_name(60623))
    joined = opened("coco-captions", tmp_path / "b")
    assert joined.examples[2].captions == tuple(f"caption {j} of 483108" for j in range(5))


def test_domains_of_nocaps(tmp_path):
    testset = opened("nocaps", tmp_path)
    assert [example.domain for example in testset.examples] == ["in-domain", "near-domain", "out-domain"]
    assert testset.card["counts"]["out-domain"] == 1
    changed(tmp_path / "nocaps_val_4500_captions.json", lambda document: document["images"][2].pop("domain"))
    with pytest.raises(DataError, match="image 002ea: domain is None; one of in-domain"):
        open_testset("nocaps", tmp_path, "val")


def test_questions_are_joined_with_their_answers(tmp_path):
    testset = opened("vqav2", tmp_path)
    second = testset.examples[1]
    assert (second.key, second.question, second.domain, second.question_type) == (
        "391895001", "How many?", "number", "how many",
    )  # fmt: skip
    assert second.answers == ("2",) * 6 + ("two",) * 2 + ("3",) * 2
    assert second.image == testset.examples[0].image
    assert testset.card["counts"] == {
        "images": 3, "questions": 4, "answers": 40, "number": 1, "other": 1, "yes/no": 2,
    }  # fmt: skip
    assert "4 questions, but 214354 were published" in testset.card["warnings"]
    assert opened("okvqa", tmp_path / "b").examples[0].question_type == "Vehicles and Transportation"
    types = [
        (example.domain, example.question_type, example.answers) for example in opened("gqa", tmp_path / "c").examples
    ]
    assert types == [("binary", "verify", ("yes",)), ("open", "query", ("square",)), ("binary", "choose", ("left",))]


def test_another_choice_of_examples_has_another_fingerprint(tmp_path):
    whole = opened("gqa", tmp_path)
    changed(tmp_path / "testdev_balanced_questions.json", lambda document: document.pop("201"))
    assert open_testset("gqa", tmp_path, "testdev").fingerprint != whole.fingerprint


@pytest.mark.parametrize("name", SETS)
def test_what_to_download_is_said_at_once(name, tmp_path):
    split = SETS[name][1]
    with pytest.raises(DataError) as caught:
        open_testset(name, tmp_path, split)
    published = PUBLISHED[name][split]
    for part in (*published.annotations, published.images):
        assert f"{tmp_path / part.places[0]}  from {part.url}" in str(caught.value)


@pytest.mark.parametrize("place", ["flickr30k_images/flickr30k_images", "Images"])
def test_other_places_of_the_same_pictures(place, tmp_path):
    testset_layouts.flickr30k(tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "flickr30k-images").rename(tmp_path / place)
    assert open_testset("flickr30k", tmp_path, "test").examples[0].image().size == (12, 10)


def test_missing_pictures_are_counted_and_ten_are_named(tmp_path):
    rows = [(number, number, "What?", ["x"] * 10, "other", "what") for number in range(1, 15)]
    testset_layouts.vqav2(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        open_testset("vqav2", tmp_path, "val")
    message = str(caught.value)
    assert message.startswith("14 of 14 pictures are missing")
    assert "images.cocodataset.org" in message.partition("and 4 more")[2]
    assert message.count("COCO_val2014_") == 10


def test_a_damaged_picture_is_named_when_it_is_opened(tmp_path):
    testset = opened("gqa", tmp_path)
    Path(testset.examples[0].image.path).write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(DataError, match=r"n0\.jpg cannot be used"):
        testset.examples[0].image()
    assert testset.examples[1].image().size == (12, 10)


def test_all_that_is_wrong_with_annotations_comes_at_once(tmp_path):
    testset_layouts.vqav2(tmp_path)

    def harm_questions(document):
        document["questions"][0]["image_id"] = 5  # not that of the annotation
        document["questions"][1]["question"] = None
        document["questions"] += [document["questions"][2], "?", {"question_id": 9, "image_id": 1, "question": "Eh?"}]

    def harm_annotations(document):
        document["annotations"][3]["answers"] = [{"answer": 3}]
        document["annotations"].append({"question_id": 77})

    changed(tmp_path / QUESTIONS, harm_questions)
    changed(tmp_path / ANNOTATIONS, harm_annotations)
    with pytest.raises(DataError) as caught:
        open_testset("vqav2", tmp_path, "val")
    message = str(caught.value)
    for expected in (
        f"{QUESTIONS}: question_id 391895000: image_id is 5, in {ANNOTATIONS} 391895",
        f"{QUESTIONS}: question_id 391895001: question is None, not a text",
        f"{QUESTIONS}: question_id 60623000 stands there twice",
        f"{QUESTIONS}: entry 6 is str, not an object",
        f"{QUESTIONS}: question_id 9: no annotation in {ANNOTATIONS}",
        f"{ANNOTATIONS}: question_id 483108000: answer is 3, not a text",
        f"{ANNOTATIONS}: question_id 77: no such question",
    ):
        assert expected in message
    assert message.startswith("7 problem(s)")


ODD = {
    "coco-karpathy": (lambda d: d["images"][0].update(filename="../../secret.jpg"), "is not below"),
    "flickr30k": (lambda d: d["images"][0].update(filename="/etc/a.jpg"), "is not below"),
    "coco-captions": (lambda d: d["annotations"].append({"image_id": 4, "caption": "x"}), "image 4"),
    "nocaps": (lambda d: d["annotations"][0].update(caption=7), "caption_not_text"),
    "okvqa": (lambda d: d.pop("annotations"), "not an object with a list 'annotations'"),
    "vizwiz": (lambda d: d[1].update(image="../val/x.jpg"), "is not below"),
    "gqa": (lambda d: d["200"].update(imageId="../n0", answer=None), "question 200: answer is None"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_entries_are_refused_by_name(name, tmp_path):
    change, expected = ODD[name]
    SETS[name][0](tmp_path)
    path = max(tmp_path.rglob("*.json"))  # the annotations, where there are two
    changed(path, change)
    with pytest.raises(DataError, match=expected) as caught:
        open_testset(name, tmp_path, SETS[name][1])
    assert path.name in str(caught.value)


@pytest.mark.parametrize("folder", ["é" * 300, "\udc80"])
def test_names_that_no_folder_has_are_missing_pictures(folder, tmp_path):
    testset_layouts.coco_karpathy(tmp_path)
    changed(tmp_path / "dataset_coco.json", lambda document: document["images"][0].update(filepath=folder))
    with pytest.raises(DataError, match="1 of 3 pictures are missing") as caught:
        open_testset("coco-karpathy", tmp_path, "test")
    assert str(caught.value).encode()


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"x"', '{"questions": 3}', '{"images": 3}', "[[]]"])
@pytest.mark.parametrize("name", SETS)
def test_other_documents_are_data_errors(name, text, tmp_path):
    SETS[name][0](tmp_path)
    next(tmp_path.rglob("*.json")).write_text(text)
    with pytest.raises(DataError):
        open_testset(name, tmp_path, SETS[name][1])


def test_unknown_names_and_splits(tmp_path):
    with pytest.raises(ConfigError, match="there are coco-karpathy, coco-captions"):
        open_testset("imagenet", tmp_path, "val")
    with pytest.raises(ConfigError, match="vqav2 has no split 'test'"):
        open_testset("vqav2", tmp_path, "test")
