"""python -m seed_dist.tokenize as users run it: files, folders and shards in, a line for each picture out."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from seed_dist.cli import run_command
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.small_painter import build_painter, save_painter
from seed_dist.tokenize.__main__ import main
from tests.pictures import fill, picture
from tests.unit.tokenize.tiny_tokenizer import LAYOUT, export

QUERIES = LAYOUT.queries


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, SeedTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return folder, export(folder)


@pytest.fixture
def tokenize(model, monkeypatch, capsys, tmp_path):
    """Run the command in `tmp_path` with the small tokenizer -> (exit code, standard output, standard error)."""
    os.chdir(tmp_path)

    def run(*arguments: object, tokenizer: Path = model[0]) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["tokenize", *map(str, arguments), "--tokenizer", str(tokenizer)])
        code = run_command(main)
        return code, *capsys.readouterr()

    return run


def ids_of(out: str) -> dict[str, list[int]]:
    lines = [line.split("\t") for line in out.splitlines()]
    assert len({name for name, _ in lines}) == len(lines)
    return {name: [int(word) for word in ids.split(" ")] for name, ids in lines}


def test_files_folders_and_shards_give_the_ids_of_their_pictures(tokenize, model, tmp_path):
    fill(tmp_path / "photos" / "deep", 5)
    shard_source(tmp_path / "photos", tmp_path / "images", ShardOptions(shard_samples=3, workers=1))
    (tmp_path / "photos" / "deep" / "notes.md").write_text("no picture")
    shards = [f"images/shard-{number:06d}.tar" for number in range(2)]
    code, out, err = tokenize("photos/deep/0003.png", "photos", "images", "--batch-size", 4)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 11
    assert out.splitlines()[0] == out.splitlines()[4]  # named, and in the folder
    found = ids_of("\n".join(out.splitlines()[1:]))
    in_folder = [f"photos/deep/{i:04d}.{('jpg', 'png')[i % 2]}" for i in range(5)]
    in_shards = [f"{shards[i // 3]}/{i:09d}.{('jpg', 'png')[i % 2]}" for i in range(5)]
    assert list(found) == [*in_folder, *in_shards]
    assert [found[name] for name in in_shards] == [found[name] for name in in_folder]
    stored = ImageShards(tmp_path / "images")
    assert [found[name] for name in in_shards] == model[1].encode([stored.image(row) for row in range(5)]).tolist()
    assert len({tuple(ids) for ids in found.values()}) == 5
    assert all(len(ids) == QUERIES for ids in found.values())


def test_the_batch_changes_no_id(tokenize, tmp_path):
    fill(tmp_path / "photos", 70)
    alone, together = (tokenize("photos", "--batch-size", size) for size in (1, 64))
    assert alone == together
    assert len(alone[1].splitlines()) == 70


def test_unreadable_pictures_are_named_and_counted_and_the_others_go_on(tokenize, tmp_path):
    folder = fill(tmp_path / "photos", 4)
    (folder / "0001a.jpg").write_bytes(b"no picture")
    (folder / "0002a.png").write_bytes(picture(0)[:60])
    (folder / "0003a.png").write_bytes(b"")
    code, out, err = tokenize("photos", "--batch-size", 2)
    assert code == 3
    assert len(ids_of(out)) == 4
    for name in ("0001a.jpg", "0002a.png", "0003a.png"):
        assert f"left out: photos/{name}: unreadable_image: " in err
    assert "error: 3 of 7 could not be read" in err


def test_damaged_and_foreign_shards(tokenize, tmp_path):
    with tarfile.open(tmp_path / "good.tar", "w") as shard:
        for name, data in (("a.png", picture(1)), ("b.jpg", b"bad"), ("b.txt", b"caption"), ("c\n.png", picture(2))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    data = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:700])
    (tmp_path / "not.tar").write_bytes(b"no tar")
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    code, out, err = tokenize("cut.tar", "good.tar", "not.tar", "none.tar")
    assert code == 3
    assert list(ids_of(out)) == ["good.tar/a.png", "good.tar/c\\n.png"]
    assert "good.tar/b.jpg: unreadable_image" in err
    assert "cut.tar: the shard is damaged" in err
    assert "not.tar: the shard is damaged after 0 pictures" in err
    assert "none.tar: the shard holds no pictures" in err
    assert "4 of 6 could not be read" in err


@pytest.fixture
def paint(tokenize, tmp_path):
    """Paint into a new folder -> (standard output, {file name: pixels}); one step, quickly rather than well."""
    torch.manual_seed(0)
    save_painter(tmp_path / "painter", build_painter(12))
    export(tmp_path / "tokenizer", painter=str(tmp_path / "painter"))
    folders = (tmp_path / f"painted-{number}" for number in itertools.count())

    def run(*arguments: object, steps: int = 1) -> tuple[str, dict[str, bytes]]:
        folder = next(folders)
        code, out, err = tokenize(*arguments, "--paint", folder, "--steps", steps, tokenizer=tmp_path / "tokenizer")
        assert (code, err) == (0, "")
        return out, {path.name: Image.open(path).tobytes() for path in sorted(folder.iterdir())}

    return run


def test_painted_pictures_depend_on_the_ids_alone(paint, tmp_path):
    folder = fill(tmp_path / "photos", 2)
    (folder / "z ö.png").write_bytes((folder / "0001.png").read_bytes())
    out, painted = paint("photos")
    assert len(ids_of(out)) == 3
    assert list(painted) == ["000001-0000.png", "000002-0001.png", "000003-z__.png"]
    first, second, third = painted.values()
    assert second == third != first


def test_printed_lines_are_painted_again(paint, monkeypatch, tmp_path):
    folder = fill(tmp_path / "photos", 3)
    (folder / "a b\tc.png").write_bytes((folder / "0001.png").read_bytes())
    out, painted = paint("photos")
    (tmp_path / "lines.tsv").write_text(out.replace("\n", "\n\n"))
    assert paint("--from-ids", "lines.tsv") == (out, painted)
    monkeypatch.setattr(sys, "stdin", io.StringIO(out))
    assert paint("--from-ids", "-") == (out, painted)


def test_the_options_of_painting_are_those_of_the_tokenizer(paint, tmp_path):
    fill(tmp_path / "photos", 2)
    out, _ = paint("photos")
    (tmp_path / "lines.tsv").write_text(out)
    first, second = (torch.tensor(ids) for ids in ids_of(out).values())
    options = ("--seed", 3, "--guidance", 4.5, "--negative", "photos/0001.png")
    _, painted = paint("--from-ids", "lines.tsv", *options, steps=2)
    expected = SeedTokenizer.from_pretrained(tmp_path / "tokenizer").paint(first, 3, 2, 4.5, second)
    assert painted["000001-0000.png"] == expected[0].tobytes()


def test_lines_that_are_no_ids_are_listed_and_nothing_is_painted(tokenize, tmp_path):
    good = "a.png\t" + " ".join(["1"] * QUERIES)
    (tmp_path / "lines.tsv").write_text(f"{good}\n{good} 1\n\na.png 1\nb.png\t1 2 3 4 5 200\nleft out: c.png\n{good}")
    code, out, err = tokenize("--from-ids", "lines.tsv", "--paint", "out")
    assert (code, out) == (3, "")
    assert re.findall(r"line (\d+)", err) == ["2", "4", "5", "6"]
    assert "line 5: ids reach from 1 to 200, but this codebook has 0 to 199" in err
    assert not (tmp_path / "out").exists()
    code, _, err = tokenize("--from-ids", "none.tsv", "--paint", "out")
    assert (code, "--from-ids none.tsv cannot be read" in err) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jpg", "photos", "empty"], 3, "none.jpg does not exist; folder empty holds no pictures"),
        (["photos", "--batch-size", "0"], 2, "--batch-size is 0; at least 1"),
        (["photos", "--paint", "file"], 2, "--paint is file, which is no folder"),
        ([], 2, "give either IMAGES or --from-ids FILE"),
        (["photos", "--from-ids", "file", "--paint", "out"], 2, "give either IMAGES or --from-ids FILE"),
        (["--from-ids", "file", "--seed", "0"], 2, "--from-ids, --seed without --paint: nothing would be painted"),
        (["photos", "--paint", "out", "--steps", "0", "--guidance", "nan"], 2, "--steps is 0; at least 1"),
        (["photos", "--paint", "out", "--negative", "file"], 3, "--negative file cannot be read: unreadable_image"),
        (["photos", "--paint", "out", "--negative", "none"], 3, "--negative none cannot be read: unreadable_image"),
    ],
)
def test_wrong_arguments(tokenize, tmp_path, arguments, code, message):
    fill(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    found = tokenize(*arguments)
    assert found[:2] == (code, "")
    assert message in found[2]


def test_what_does_not_belong_together_is_said(tokenize, tmp_path):
    fill(tmp_path / "photos", 1)
    code, _, err = tokenize("photos", tokenizer=tmp_path / "photos")
    assert (code, "photos holds no config.json" in err) == (3, True)
    export(tmp_path / "wide", vision_width=1408)
    code, _, err = tokenize("photos", tokenizer=tmp_path / "wide")
    assert code == 4
    assert "patch features of embedded:clip is 400, but 1408 is needed" in err
    save_painter(tmp_path / "painter", build_painter(10))
    export(tmp_path / "narrow", painter=str(tmp_path / "painter"))
    code, _, err = tokenize("photos", "--paint", "out", tokenizer=tmp_path / "narrow")
    assert code == 4
    assert "is [10], but [12] is needed" in err


def test_a_reader_that_has_seen_enough_ends_it_quietly(tokenize, monkeypatch, tmp_path):
    fill(tmp_path / "photos", 3)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert tokenize("photos", "--batch-size", "1") == (0, "", "")
