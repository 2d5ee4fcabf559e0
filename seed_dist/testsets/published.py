"""What is published of each test set: what to download, where it belongs, how much it is, on which terms.

Counts are those of the publications, of the sets' own pages (visualqa.org/download.html, nocaps.org/download), and
for the Karpathy splits and GQA of the many who counted the files. Terms are what the sets' pages say; they bind, not
this table.
"""

from __future__ import annotations

from dataclasses import dataclass

_COCO_IMAGES = "http://images.cocodataset.org/zips/val2014.zip"
_KARPATHY_FILE = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_KARPATHY = "Karpathy and Fei-Fei 2015, Deep Visual-Semantic Alignments for Generating Image Descriptions"
_COCO_TERMS = "COCO annotations CC BY 4.0; pictures under Flickr's terms of use (cocodataset.org/#termsofuse)"
_COCO_CITATION = "Chen et al. 2015, Microsoft COCO Captions, arXiv 1504.00325"


@dataclass(frozen=True)
class Part:
    """A file or folder to download. `places` below the set's folder: the first that exists is taken."""

    places: tuple[str, ...]
    url: str


@dataclass(frozen=True)
class Published:
    """One split of a set. `counts`: keys as in the card."""

    annotations: tuple[Part, ...]
    images: Part
    counts: dict[str, int]
    licence: str
    citation: str


def _karpathy_coco() -> dict[str, Published]:
    parts = (Part(("dataset_coco.json", "karpathy/dataset_coco.json"), _KARPATHY_FILE),)
    counts = {"images": 5000, "captions": 25010}
    published = Published(
        parts, Part(("val2014", "images/val2014"), _COCO_IMAGES), counts, _COCO_TERMS, f"{_KARPATHY}; {_COCO_CITATION}"
    )
    return {"test": published, "val": published}  # val has just as many captions


def _flickr30k() -> dict[str, Published]:
    parts = (Part(("dataset_flickr30k.json", "karpathy/dataset_flickr30k.json"), _KARPATHY_FILE),)
    # The original archive, its copies on Kaggle (folder in folder), and what people make of them.
    places = ("flickr30k-images", "flickr30k_images/flickr30k_images", "flickr30k_images", "Images", "images")
    images = Part(places, "https://shannon.cs.illinois.edu/DenotationGraph/ (by request)")
    licence = "captions CC BY 3.0; pictures under Flickr's terms, for research and teaching only"
    citation = f"Young et al. 2014, From image descriptions to visual denotations, TACL 2; {_KARPATHY}"
    counts = {"test": 1000, "val": 1014}
    return {
        split: Published(parts, images, {"images": n, "captions": 5 * n}, licence, citation)
        for split, n in counts.items()
    }


def _coco_captions() -> dict[str, Published]:
    counts = {"val2014": (40504, 202654), "val2017": (5000, 25014)}
    return {
        split: Published(
            (
                Part(
                    (f"annotations/captions_{split}.json", f"captions_{split}.json"),
                    f"http://images.cocodataset.org/annotations/annotations_trainval{split[3:]}.zip",
                ),
            ),
            Part((split, f"images/{split}"), f"http://images.cocodataset.org/zips/{split}.zip"),
            {"images": images, "captions": captions},
            _COCO_TERMS,
            _COCO_CITATION,
        )
        for split, (images, captions) in counts.items()
    }


def _nocaps() -> dict[str, Published]:
    name = "nocaps_val_4500_captions.json"
    parts = (Part((name, f"annotations/{name}"), f"https://nocaps.s3.amazonaws.com/{name}"),)
    images = Part(
        ("val", "validation", "val_imgs", "images"),
        "the 4500 pictures at coco_url of that file: https://s3.amazonaws.com/nocaps/val/OPEN_IMAGES_ID.jpg",
    )
    licence = "captions CC BY 2.0; pictures from Open Images, listed as CC BY 2.0 by who uploaded them"
    citation = "Agrawal et al. 2019, nocaps: novel object captioning at scale, arXiv 1812.08658"
    counts = {"images": 4500, "captions": 45000, "in-domain": 648, "near-domain": 2938, "out-domain": 914}
    return {"val": Published(parts, images, counts, licence, citation)}


def _vqav2() -> dict[str, Published]:
    base = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
    parts = (
        Part(("v2_OpenEnded_mscoco_val2014_questions.json",), f"{base}/v2_Questions_Val_mscoco.zip"),
        Part(("v2_mscoco_val2014_annotations.json",), f"{base}/v2_Annotations_Val_mscoco.zip"),
    )
    counts = {"images": 40504, "questions": 214354, "answers": 2143540}
    licence = f"questions and answers CC BY 4.0 (visualqa.org/terms.html); {_COCO_TERMS}"
    citation = "Goyal et al. 2017, Making the V in VQA Matter, arXiv 1612.00837"
    images = Part(("val2014", "images/val2014"), _COCO_IMAGES)
    return {"val": Published(parts, images, counts, licence, citation)}


def _okvqa() -> dict[str, Published]:
    base = "https://okvqa.allenai.org/static/data"
    questions, annotations = "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json"
    parts = (
        Part((questions,), f"{base}/{questions}.zip"),
        Part((annotations,), f"{base}/{annotations}.zip"),
    )
    licence = f"questions and answers: none stated (okvqa.allenai.org); {_COCO_TERMS}"
    citation = "Marino et al. 2019, OK-VQA, arXiv 1906.00067"
    images = Part(("val2014", "images/val2014"), _COCO_IMAGES)
    return {"val": Published(parts, images, {"questions": 5046, "answers": 50460}, licence, citation)}


def _vizwiz() -> dict[str, Published]:
    base = "https://vizwiz.cs.colorado.edu/VizWiz_final"
    parts = (Part(("val.json", "Annotations/val.json"), f"{base}/vqa_data/Annotations.zip"),)
    counts = {"images": 4319, "questions": 4319, "answers": 43190}
    licence = "CC BY 4.0 (vizwiz.org/tasks-and-datasets/vqa)"
    citation = "Gurari et al. 2018, VizWiz Grand Challenge, arXiv 1802.08218"
    return {
        "val": Published(
            parts, Part(("val", "images/val", "images"), f"{base}/images/val.zip"), counts, licence, citation
        )
    }


def _gqa() -> dict[str, Published]:
    base = "https://downloads.cs.stanford.edu/nlp/data/gqa"
    counts = {
        "testdev": {"images": 398, "questions": 12578, "answers": 12578},
        "val": {"images": 10234, "questions": 132062, "answers": 132062},
    }
    licence = "CC BY 4.0, as Visual Genome whose pictures it uses (cs.stanford.edu/people/dorarad/gqa)"
    citation = "Hudson and Manning 2019, GQA, arXiv 1902.09506"
    published = {}
    for split, numbers in counts.items():
        name = f"{split}_balanced_questions.json"
        parts = (Part((name, f"questions/{name}", f"questions1.2/{name}"), f"{base}/questions1.2.zip"),)
        published[split] = Published(parts, Part(("images",), f"{base}/images.zip"), numbers, licence, citation)
    return published


PUBLISHED: dict[str, dict[str, Published]] = {
    "coco-karpathy": _karpathy_coco(),
    "coco-captions": _coco_captions(),
    "flickr30k": _flickr30k(),
    "nocaps": _nocaps(),
    "vqav2": _vqav2(),
    "okvqa": _okvqa(),
    "vizwiz": _vizwiz(),
    "gqa": _gqa(),
}
