"""Small test sets in the layouts of the published ones: names of files, folders and keys are theirs."""

import json

from tests.pictures import picture

COCO_IDS = (391895, 60623, 483108)
PEOPLE = 10


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_pictures(folder, names, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).write_bytes(picture(seed, "JPEG", **options))


def coco_name(number):
    return f"COCO_val2014_{number:012d}.jpg"


def coco_pictures(folder, **options):
    write_pictures(folder / "val2014", map(coco_name, COCO_IDS), **options)


def karpathy(folder, name, filepath):
    """The file of the splits; pictures are the caller's. One entry is of `train`, one of `val`, the rest of `test`."""
    entries = []
    for i, number in enumerate((*COCO_IDS, 7, 8)):
        sentences = [{"raw": f"Caption {j} of {number}. ", "tokens": [], "sentid": j, "imgid": i} for j in range(5)]
        split = {3: "train", 4: "val"}.get(i, "test")
        entry = {"filename": coco_name(number), "imgid": i, "split": split, "sentences": sentences, "sentids": []}
        entries.append({**filepath, **entry, "cocoid": number})
    write_json(folder / name, {"images": entries, "dataset": "coco"})


def coco_karpathy(folder):
    karpathy(folder, "dataset_coco.json", {"filepath": "val2014"})
    coco_pictures(folder)


def flickr30k(folder):
    karpathy(folder, "dataset_flickr30k.json", {})
    write_pictures(folder / "flickr30k-images", map(coco_name, COCO_IDS))


def captioned(images, each):
    return {
        "info": {}, "licenses": [], "images": images,
        "annotations": [
            {"image_id": image["id"], "id": 100 * i + j, "caption": f"caption {j} of {image['id']}"}
            for j in range(each) for i, image in enumerate(images)
        ],
    }  # fmt: skip


def coco_captions(folder):
    images = [{"id": number, "file_name": coco_name(number), "height": 10, "width": 12} for number in COCO_IDS]
    write_json(folder / "annotations/captions_val2014.json", captioned(images, 5))
    coco_pictures(folder)


def nocaps(folder):
    domains = ("in-domain", "near-domain", "out-domain")
    images = [
        {"id": i, "open_images_id": f"00{i}ea", "file_name": f"00{i}ea.jpg", "domain": domain, "coco_url": "https://x"}
        for i, domain in enumerate(domains)
    ]
    del images[1]["file_name"]  # copies of the file that keep only the Open Images id
    write_json(folder / "nocaps_val_4500_captions.json", captioned(images, 10))
    write_pictures(folder / "val", [f"00{i}ea.jpg" for i in range(3)])


def questions_of(rows):
    """`rows`: (question_id, image_id, question, answers of ten, answer type, question type)."""
    asked = [{"image_id": row[1], "question": row[2], "question_id": row[0]} for row in rows]
    annotated = [
        {
            "question_id": row[0], "image_id": row[1], "answer_type": row[4], "question_type": row[5],
            "multiple_choice_answer": row[3][0],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(row[3], 1)],
        }
        for row in rows
    ]  # fmt: skip
    return {"data_type": "mscoco", "questions": asked}, {"data_type": "mscoco", "annotations": annotated}


ROWS = (
    (391895000, 391895, "Is it red?", ["yes"] * 10, "yes/no", "is it"),
    (391895001, 391895, "How many?", ["2"] * 6 + ["two"] * 2 + ["3"] * 2, "number", "how many"),
    (60623000, 60623, "What is it?", ["square"] * 3 + ["a square"] * 3 + ["box"] * 4, "other", "what is"),
    (483108000, 483108, "Is it blue?", ["no"] * 7 + ["yes"] * 3, "yes/no", "is it"),
)


def vqav2(folder, rows=ROWS, **options):
    questions, annotations = questions_of(rows)
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
    write_json(folder / "v2_mscoco_val2014_annotations.json", annotations)
    coco_pictures(folder, **options)


def okvqa(folder):
    questions, annotations = questions_of([(*row[:4], "other", "one") for row in ROWS])
    annotations["question_types"] = {"one": "Vehicles and Transportation"}
    write_json(folder / "OpenEnded_mscoco_val2014_questions.json", questions)
    write_json(folder / "mscoco_val2014_annotations.json", annotations)
    coco_pictures(folder)


def vizwiz(folder):
    entries = [
        {
            "image": f"VizWiz_val_{i:08d}.jpg", "question": "What is this?", "answerable": 1, "answer_type": kind,
            "answers": [{"answer": "can", "answer_confidence": "maybe"}] * PEOPLE,
        }
        for i, kind in enumerate(("other", "unanswerable"))
    ]  # fmt: skip
    write_json(folder / "val.json", entries)
    write_pictures(folder / "val", [entry["image"] for entry in entries])


def gqa(folder):
    entries = {
        f"20{i}": {
            "imageId": f"n{i % 2}", "question": "Is it round?", "answer": answer, "fullAnswer": "Yes.",
            "isBalanced": True, "types": {"structural": kind, "semantic": "attr", "detailed": "shape"},
        }
        for i, (answer, kind) in enumerate((("yes", "verify"), ("square", "query"), ("left", "choose")))
    }  # fmt: skip
    write_json(folder / "testdev_balanced_questions.json", entries)
    write_pictures(folder / "images", ["n0.jpg", "n1.jpg"])


SETS = {
    "coco-karpathy": (coco_karpathy, "test"),
    "coco-captions": (coco_captions, "val2014"),
    "flickr30k": (flickr30k, "test"),
    "nocaps": (nocaps, "val"),
    "vqav2": (vqav2, "val"),
    "okvqa": (okvqa, "val"),
    "vizwiz": (vizwiz, "val"),
    "gqa": (gqa, "testdev"),
}
