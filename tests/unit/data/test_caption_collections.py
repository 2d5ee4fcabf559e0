"""The published collections in their own layouts: captions stay with their image, and nothing is lost unsaid."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_dist.data.pairs import Cell
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.sources import list_source
from seed_dist.data.table_source import Columns
from seed_dist.errors import DataError
from tests.pictures import content, picture

ALL = ShardOptions(shard_samples=10, workers=1, max_reject_fraction=1.0)


def pairs_of(*arguments, **options):
    return list(list_source(*arguments, **options).pairs())


def images(folder, names):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, "JPEG"))
    return folder


def shown(pairs):
    """(file, captions) of what may be used, reason of what may not."""
    return [
        pair.problem[0] if pair.problem else (Path(pair.image).name, [text.decode() for text in pair.captions])
        for pair in pairs
    ]


def test_conceptual_captions_without_header_and_with_quotes(tmp_path):
    root = images(tmp_path / "images", ["a.jpg", "b.jpg"])
    rows = ['"an open quote\thttps://x.org/p/a.jpg', "two\thttp://y.org/b.jpg?w=3", "three\thttp://z.org/none.jpg"]
    (tmp_path / "Train_GCC.tsv").write_text("\n".join(rows) + "\n")
    pairs = pairs_of(root, captions=tmp_path / "Train_GCC.tsv")
    assert shown(pairs) == [("a.jpg", ['"an open quote']), ("b.jpg", ["two"]), "not_downloaded"]
    assert "img2dataset" in pairs[2].problem[1]
    numbered = images(tmp_path / "numbered", ["00000.jpg", "00001.jpg", "00002.jpg"])
    by_row = pairs_of(numbered, captions=tmp_path / "Train_GCC.tsv", columns=Columns(image_name="{row:05d}.jpg"))
    assert [name for name, _ in shown(by_row)] == ["00000.jpg", "00001.jpg", "00002.jpg"]


def test_a_set_of_what_was_downloaded_is_made_and_the_rest_is_counted(tmp_path):
    images(tmp_path / "images", ["a.jpg"])
    rows = ["one\thttp://x.org/a.jpg", *(f"gone\thttp://x.org/{i}.jpg" for i in range(5))]
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    strict = ShardOptions(workers=1, max_reject_fraction=0, captions=tmp_path / "t.tsv")
    manifest = shard_source(tmp_path / "images", tmp_path / "out", strict).manifest
    assert (manifest.samples, manifest.details["rejected"], manifest.details["filtered"]) == (
        1,
        {},
        {"not_downloaded": 5},
    )
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no usable pair is left.*fetch it first, for example with img2dataset"):
        shard_source(tmp_path / "images", tmp_path / "none", strict)


def test_unsplash_tables_name_pictures_by_their_id(tmp_path):
    root = images(tmp_path / "photos", ["xyz.jpg", "abc.jpg", "def.jpg"])
    header = "photo_id\tphoto_image_url\tphoto_description\tai_description\n"
    (tmp_path / "photos.tsv000").write_text(header + "xyz\thttps://u/1\t\tred\nabc\thttps://u/2\t\tblue\n")
    (tmp_path / "photos.tsv001").write_text(header + 'def\thttps://u/3\ta "quoted" thing\tgreen\n')
    pairs = pairs_of(root, captions=tmp_path / "photos.tsv*")
    assert shown(pairs) == [("xyz.jpg", ["red"]), ("abc.jpg", ["blue"]), ("def.jpg", ["green"])]
    assert [pair.name for pair in pairs][2] == "photos.tsv001:2: def.jpg"


def coco(folder):
    images(folder / "val2014", ["1.jpg", "2.jpg", "3.jpg"])
    document = {
        "images": [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}, {"id": 9, "file_name": "3.jpg"}],
        "annotations": [
            {"image_id": 8, "id": 1, "caption": "b1"},
            {"image_id": 7, "id": 2, "caption": "a1"},
            {"image_id": 8, "id": 3, "caption": "b2"},
            {"image_id": 99, "id": 4, "caption": "nobody's"},
            "rubbish",
        ],
    }
    (folder / "captions_val2014.json").write_text(json.dumps(document))


def test_coco_joins_annotations_by_image(tmp_path):
    coco(tmp_path)
    pairs = pairs_of(tmp_path / "val2014", captions=tmp_path / "captions_val2014.json")
    assert shown(pairs) == [
        ("1.jpg", ["a1"]),
        ("2.jpg", ["b1", "b2"]),
        "missing_caption",
        "missing_image",
        "malformed_row",
    ]


def karpathy(folder):
    splits = ["train", "restval", "val", "test", "test"]
    names = images(folder, [f"val2014/{i}.jpg" for i in range(5)]) and [f"{i}.jpg" for i in range(5)]
    listed = [
        {"filepath": "val2014", "filename": name, "imgid": i, "split": split, "cocoid": 100 + i,
         "sentences": [{"raw": f"{i} caption {j}", "tokens": []} for j in range(5)]}
        for i, (name, split) in enumerate(zip(names, splits, strict=True))
    ]  # fmt: skip
    (folder / "dataset_coco.json").write_text(json.dumps({"images": listed, "dataset": "coco"}))
    return folder


@pytest.mark.parametrize(("wanted", "names"), [(("test",), "34"), (("train", "restval"), "01"), ((), "01234")])
def test_karpathys_splits(tmp_path, wanted, names):
    source = karpathy(tmp_path)
    pairs = pairs_of(source, captions=Path("dataset_coco.json"), columns=Columns(splits=wanted))
    assert [name for name, _ in shown(pairs)] == [f"{i}.jpg" for i in names]
    assert all(len(texts) == 5 for _, texts in shown(pairs))


def test_all_captions_stay_with_one_copy_of_the_image(tmp_path):
    source = karpathy(tmp_path / "s")
    out = tmp_path / "out"
    shard_source(source, out, ShardOptions(workers=1, captions=Path("dataset_coco.json")))
    shards = ImageShards(out)
    assert shards.captions == [f"{i} caption 0" for i in range(5)]
    assert shards.all_captions == [tuple(f"{i} caption {j}" for j in range(5)) for i in range(5)]
    tar = (out / "shard-000000.tar").read_bytes()
    assert tar.count((source / "val2014" / "3.jpg").read_bytes()) == 1
    # The shards are a source in turn, and come out the same.
    shard_source(out, tmp_path / "again", ShardOptions(workers=1))
    assert content(tmp_path / "again")["shard-000000.tar"] == content(out)["shard-000000.tar"]
    nowhere = ShardOptions(captions=Path("dataset_coco.json"), columns=Columns(splits=("nowhere",)))
    with pytest.raises(DataError, match="'split' is one of nowhere"):
        shard_source(source, tmp_path / "none", nowhere)


def test_one_bad_caption_of_several_costs_that_caption_only(tmp_path):
    images(tmp_path / "s", ["a.jpg"])
    (tmp_path / "s" / "t.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": ["one", " ", "three"]}))
    manifest = shard_source(tmp_path / "s", tmp_path / "out", ALL).manifest
    assert manifest.details["rejected"] == {"empty_caption": 1}
    assert ImageShards(tmp_path / "out").all_captions == [("one", "three")]


def test_rows_of_one_image_are_one_pair_as_flickr_has_them(tmp_path):
    images(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a\n1.jpg,b\n2.jpg,c\n1.jpg,d\n")
    assert shown(pairs_of(tmp_path)) == [("1.jpg", ["a", "b"]), ("2.jpg", ["c"]), ("1.jpg", ["d"])]


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_of_either_form(tmp_path, form):
    data = [picture(i) for i in range(7)]
    cells = [{"bytes": item, "path": None} for item in data]
    table = pa.table({"image": cells, "caption": [[f"a{i}", f"b{i}"] for i in range(7)]})
    path = tmp_path / "data.arrow"
    with pa.OSFile(str(path), "wb") as sink, getattr(pa.ipc, f"new_{form}")(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    assert pairs_of(path)[4].image == Cell(str(path), "image", 4, "bytes")
    shard_source(path, tmp_path / "out", ALL)
    shards = ImageShards(tmp_path / "out")
    assert [shards.image_bytes(i) for i in range(7)] == data
    assert shards.all_captions[6] == ("a6", "b6")


def test_rows_below_a_similarity_are_counted_not_damage(tmp_path):
    images(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "t.csv").write_text("image,caption,similarity\n1.jpg,a,0.3\n2.jpg,b,0.2\n3.jpg,c,?\n")
    options = ShardOptions(workers=1, max_reject_fraction=0, columns=Columns(at_least=(("similarity", 0.25),)))
    manifest = shard_source(tmp_path / "t.csv", tmp_path / "out", options).manifest
    assert (manifest.samples, manifest.details["filtered"]) == (1, {"low_score": 2})
    with pytest.raises(DataError, match="no column 'clip'; its columns are: image, caption, similarity"):
        pairs_of(tmp_path / "t.csv", columns=Columns(at_least=(("clip", 0.25),)))


def test_img2datasets_parquet_output(tmp_path):
    rows = [
        {"key": "0", "caption": "a", "status": "success", "error_message": None, "jpg": picture(0, "JPEG")},
        {"key": "1", "caption": "b", "status": "failed_to_download", "error_message": "HTTP Error 404", "jpg": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    strict = ShardOptions(workers=1, max_reject_fraction=0)
    manifest = shard_source(tmp_path, tmp_path / "out", strict).manifest
    assert (manifest.samples, manifest.details["filtered"]) == (1, {"not_downloaded": 1})


def test_several_sources_and_patterns_are_in_order_of_name(tmp_path):
    for name in ("b", "a"):
        images(tmp_path / name, [f"{name}.jpg"])
        (tmp_path / name / f"{name}.txt").write_text(name)
        (tmp_path / f"{name}.csv").write_text(f"image,caption\n{name}/{name}.jpg,{name}\n")
    assert [pair.name for pair in pairs_of([tmp_path / "b", tmp_path / "a"])] == ["a/a.jpg", "b/b.jpg"]
    assert [pair.name for pair in pairs_of(tmp_path / "*.csv")] == ["a.csv:2: a/a.jpg", "b.csv:2: b/b.jpg"]
    assert list_source([tmp_path / "*.csv", tmp_path / "a"]).kind == "csv+folder"
    with pytest.raises(DataError, match="matches nothing"):
        list_source(tmp_path / "*.tsv")
