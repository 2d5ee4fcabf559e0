"""Caption collections as one JSON document: COCO's annotations, Karpathy's splits, lists of objects as BLIP has them.

COCO (Chen et al. 2015, "Microsoft COCO Captions") keeps images and annotations in two lists joined by number; Karpathy
and Fei-Fei 2015 ("Deep Visual-Semantic Alignments") keep the sentences in their image, with its split. The captions of
an image stay together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seed_dist.data.pairs import Pair
from seed_dist.data.table_source import Columns, caption_bytes, in_split, path_pair, table_pairs, too_low
from seed_dist.data.text_table import json_list_table, read_document, table_name
from seed_dist.errors import DataError


def caption_json_pairs(path: Path, columns: Columns, root: Path) -> Iterator[Pair]:
    """Pairs of a document, image paths relative to `root`. DataError where its form is not known."""
    document = read_document(path)
    if isinstance(document, list):
        yield from table_pairs(json_list_table(path, document), columns, root)
        return
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DataError(
            f"{path} is neither COCO's captions (images, annotations), Karpathy's splits (images with sentences) nor a "
            "list of objects. Give one of these, or JSON lines as .jsonl."
        )
    by_image, strays = _annotations(document.get("annotations"))
    for number, image in enumerate(images, 1):
        name = f"{table_name(path)}:{number}"
        if not isinstance(image, dict):
            yield Pair(name, None, problem=("malformed_row", f"image is {type(image).__name__}, not an object"))
        elif in_split(image, columns):
            yield _pair(name, image, by_image.pop(_key(image.get("id")), None), columns, root)
        else:
            by_image.pop(_key(image.get("id")), None)
    for key, captions in by_image.items():
        detail = f"{len(captions)} captions of image {key}, which is not listed (or twice)"
        yield Pair(f"{table_name(path)}:image {key}", None, problem=("missing_image", detail))
    for number in strays:
        detail = "the annotation is no object with an image_id"
        yield Pair(f"{table_name(path)}:annotation {number}", None, problem=("malformed_row", detail))


def _annotations(annotations: Any) -> tuple[dict[str, list[Any]], list[int]]:
    """COCO's captions by image, in the order of the document, and the numbers of the entries that are none."""
    by_image: dict[str, list[Any]] = {}
    strays = []
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else (), 1):
        if isinstance(annotation, dict) and annotation.get("image_id") is not None:
            by_image.setdefault(_key(annotation["image_id"]), []).append(annotation.get("caption"))
        else:
            strays.append(number)
    return by_image, strays


def _pair(name: str, image: dict[str, Any], annotated: list[Any] | None, columns: Columns, root: Path) -> Pair:
    sentences = image.get("sentences")
    if isinstance(sentences, list):
        annotated = [item.get("raw") if isinstance(item, dict) else item for item in sentences]
    problem, captions = caption_bytes(annotated)
    folder, file = image.get("filepath"), image.get("file_name", image.get("filename"))
    if file is None and isinstance(number := image.get("open_images_id"), str):  # NoCaps names its pictures so
        file = f"{number}.jpg"
    if isinstance(folder, str) and isinstance(file, str):
        file = f"{folder}/{file}"
    return path_pair(name, file, root, captions, too_low(image, columns) or problem)


def _key(value: Any) -> str:
    """Numbers and texts alike, as files of either kind are joined."""
    return str(value)
