"""Every form of source gives the same kind of listing, in a fixed order; what is wrong is said with the next action."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_dist.data.listing import write_listing
from seed_dist.data.pairs import Cell
from seed_dist.data.sources import list_source
from seed_dist.data.table_source import Columns
from seed_dist.errors import DataError
from tests.pictures import fill, picture


def pairs_of(*arguments, **options):
    return list(list_source(*arguments, **options).pairs())


def captions(pairs):
    """The captions of what may be used; several of one image as a tuple."""
    found = [tuple(caption.decode().strip() for caption in pair.captions) for pair in pairs if pair.problem is None]
    return [several if len(several) > 1 else several[0] for several in found]


def problems(pairs):
    return {pair.name: pair.problem[0] for pair in pairs if pair.problem}


def fingerprint(source, folder):
    listed = list_source(source)
    return write_listing(folder / "pairs.arrow", listed, listed.pairs(), 4).fingerprint


def images_only(folder, count=4):
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(picture(i))
    return folder


def test_a_folder_is_listed_by_name_with_subfolders(tmp_path):
    fill(tmp_path / "s" / "b", 2)
    fill(tmp_path / "s" / "a", 2)
    fill(tmp_path / "s", 1)
    listing = pairs_of(tmp_path / "s")
    assert list_source(tmp_path / "s").kind == "folder"
    assert [pair.name for pair in listing] == [
        "0000.jpg",
        "a/0000.jpg",
        "a/0001.png",
        "b/0000.jpg",
        "b/0001.png",
    ]
    assert problems(listing) == {}


def test_pairs_that_cannot_be_are_problems_not_errors(tmp_path):
    source = fill(tmp_path / "s", 3)
    (source / "0000.txt").unlink()
    (source / "alone.txt").write_text("no image")
    (source / "0001.JPEG").write_bytes(picture(9, "JPEG"))
    listing = pairs_of(source)
    assert problems(listing) == {
        "0000.jpg": "missing_caption",
        "0001.png": "duplicate_name",
        "alone.txt": "missing_image",
    }
    assert "0001.JPEG, which is kept" in next(p.problem[1] for p in listing if p.name == "0001.png")
    assert captions(listing) == ["caption number 1", "caption number 2"]


def test_hidden_and_other_files_are_no_pairs(tmp_path):
    source = fill(tmp_path / "s", 2)
    (source / ".hidden.png").write_bytes(b"")
    (source / ".cache").mkdir()
    (source / ".cache" / "x.png").write_bytes(b"")
    (source / "notes.md").write_text("")
    assert len(pairs_of(source)) == 2


def test_names_that_are_not_utf8_are_listed(tmp_path):
    source = fill(tmp_path / "s", 1)
    name = os.fsdecode(b"\xff\xfe")
    (source / f"{name}.png").write_bytes(picture(1))
    (source / f"{name}.txt").write_text("odd name")
    listing = pairs_of(source)
    assert [pair.name for pair in listing] == ["0000.jpg", "\\xff\\xfe.png"]


def write_table(path, rows):
    """The same rows in the form that the name asks for."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        quoted = [[f'"{value}"' for value in row.values()] for row in rows]
        path.write_text("\n".join(separator.join(cells) for cells in [list(rows[0]), *quoted]) + "\n")


@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.jsonl", "captions.parquet"])
def test_tables_beside_their_images(tmp_path, name):
    source = images_only(tmp_path / "s")
    rows = [{"file_name": f"{i}.png", "caption": f"number {i}, as written"} for i in (2, 0, 3)]
    write_table(source / name, rows)
    listing = pairs_of(source)
    assert list_source(source).kind == name.split(".")[1]
    assert [Path(pair.image) for pair in listing] == [source / f"{i}.png" for i in (2, 0, 3)]  # the table's order
    assert captions(listing) == ["number 2, as written", "number 0, as written", "number 3, as written"]
    assert pairs_of(source / name) == listing
    shutil.move(source / name, tmp_path / name)
    assert captions(pairs_of(source, captions=tmp_path / name)) == captions(listing)


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_with_image_bytes(tmp_path, struct):
    data = [picture(i) for i in range(3)]
    cells = [{"bytes": item, "path": None} for item in data] if struct else data
    pq.write_table(pa.table({"image": cells, "text": ["a", "b", "c"]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"image": cells, "text": ["d", "e", "f"]}), tmp_path / "part-1.parquet")
    listing = pairs_of(tmp_path)
    assert captions(listing) == list("abcdef")
    assert listing[4].image == Cell(str(tmp_path / "part-1.parquet"), "image", 1, "bytes" if struct else None)


def test_columns_may_be_named(tmp_path):
    images_only(tmp_path / "s")
    write_table(tmp_path / "s" / "t.csv", [{"where": "0.png", "what": "zero", "caption": "not this"}])
    with pytest.raises(DataError, match=r"columns where, what, caption; none is among image, .*--image-column"):
        pairs_of(tmp_path / "s")
    assert captions(pairs_of(tmp_path / "s", columns=Columns("where", "what"))) == ["zero"]
    with pytest.raises(
        DataError, match=r"--caption-column is 'whatever', but the columns of .* are: where, what, caption"
    ):
        pairs_of(tmp_path / "s", columns=Columns("where", "whatever"))


def test_rows_that_cannot_be_pairs(tmp_path):
    source = images_only(tmp_path / "s")
    lines = [
        '{"image": "0.png", "caption": "good"}',
        "{broken",
        "[1]",
        '{"caption": "no image"}',
        '{"image": "1.png"}',
        '{"image": "2.png", "caption": {"x": 1}}',
        '{"image": "3.png", "caption": "\\ud800"}',
    ]
    (source / "t.jsonl").write_text("\n".join(lines))
    listing = pairs_of(source)
    reasons = [pair.problem and pair.problem[0] for pair in listing]
    assert reasons == [
        None,
        "malformed_row",
        "malformed_row",
        "missing_image",
        "missing_caption",
        "caption_not_text",
        None,
    ]
    with pytest.raises(UnicodeDecodeError):
        listing[6].captions[0].decode()  # half of a surrogate pair is no text: rejected when the caption is checked


def test_a_comma_without_quotes_is_not_cut_off(tmp_path):
    source = images_only(tmp_path / "s")
    (source / "t.csv").write_text("image,caption\n0.png,red, not blue\n1.png,green\n")
    listing = pairs_of(source)
    assert problems(listing) == {"t.csv:2": "malformed_row"}
    assert captions(listing) == ["green"]


def test_a_byte_that_is_no_utf8_stays_in_its_row(tmp_path):
    source = images_only(tmp_path / "s")
    (source / "t.csv").write_bytes(b"\xef\xbb\xbfimage,caption\n0.png,caf\xe9\n1.png,caf\xc3\xa9\n2.png,a\0b\n")
    raw = [pair.captions[0] for pair in pairs_of(source)]
    assert raw == [b"caf\xe9", "café".encode(), b"a b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.resolve, r"source .*s does not exist. Give a folder of images with .txt files"),
        (Path.mkdir, r"source folder .*s is empty. Put images"),
        (images_only, r"holds 4 images but no captions. Needed are .*--captions FILE"),
        (lambda s: (s.mkdir(), (s / "a.bin").write_text("")), r"holds 1 files but no images"),
        (
            lambda s: (images_only(s), (s / "a.csv").write_text("x"), (s / "b.jsonl").write_text("{}")),
            r"tables of several kinds \(a.csv, b.jsonl\).*--captions FILE",
        ),
        (lambda s: (images_only(s), (s / "a.csv").write_text("")), r"has the columns \(none\)"),
        (lambda s: (images_only(s), (s / "a.parquet").write_text("no")), r"a.parquet cannot be read as parquet"),
    ],
)
def test_sources_that_are_none(tmp_path, make, message):
    make(tmp_path / "s")
    with pytest.raises(DataError, match=message):
        pairs_of(tmp_path / "s")


def test_the_table_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"--captions .*none.csv is no file, neither here nor in"):
        list_source(images_only(tmp_path / "s"), captions=tmp_path / "none.csv")


def changes(source):
    """Each change of a source that must be noticed, and how to undo it."""
    caption, image = source / "0003.txt", source / "0004.jpg"
    before = caption.read_bytes(), image.read_bytes()
    yield lambda: caption.write_bytes(before[0].replace(b"3", b"4")), lambda: caption.write_bytes(before[0])
    yield lambda: image.write_bytes(before[1][:-1] + b"\0"), lambda: image.write_bytes(before[1])
    yield lambda: fill(source, 1, start=90), lambda: [(source / f"0090.{s}").unlink() for s in ("jpg", "txt")]
    yield lambda: image.rename(source / "x.jpg"), lambda: (source / "x.jpg").rename(image)


def test_the_fingerprint_is_of_the_content_not_of_place_or_date(tmp_path):
    source = fill(tmp_path / "s", 6)
    first = fingerprint(source, tmp_path)
    shutil.copytree(source, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert fingerprint(tmp_path / "elsewhere", tmp_path) == first
    seen = {first}
    for change, undo in changes(source):
        change()
        seen.add(fingerprint(source, tmp_path))
        undo()
        assert fingerprint(source, tmp_path) == first
    assert len(seen) == 5
