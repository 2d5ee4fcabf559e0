"""python -m seed_dist.tokenize as users run it: files, folders and shards in, a line for each picture out."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from PIL import Image

from seed_dist.cli import run_command
from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.small_painter import build_painter, save_painter
from seed_dist.models.tokenizer import SeedQuantizer
from seed_dist.tokenize.__main__ import main
from tests.pictures import fill, picture

QUERIES = 6


def export(folder: Path, vision_width: int = 400, painter: str = "embedded:painter") -> SeedTokenizer:
    """A random tokenizer on the embedded CLIP, whose codes differ between pictures."""
    torch.manual_seed(0)
    layout = QFormerConfig(
        queries=QUERIES, width=16, layers=2, heads=2, mlp_width=24, vision_width=vision_width, projection_width=8
    )
    codebook = CodebookConfig(size=200, width=6, decoder_layers=1, decoder_heads=2, head="mlp", generation_width=12)
    qformer = CausalQFormer(layout, text_path=False)
    for parameter in qformer.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    model = SeedTokenizer(qformer, SeedQuantizer.for_qformer(codebook, layout), BackboneConfig(painter=painter))
    with torch.no_grad():
        vectors = model.quantizer.encode_vectors(model.causal_embeddings(torch.randn(300, 16, vision_width)))
    model.quantizer.quantizer.initialise_from(vectors.flatten(0, 1), seed=0)
    model.save_pretrained(folder)
    return model


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
    fill(tmp_path / "photos", 9)
    alone, together = (tokenize("photos", "--batch-size", size) for size in (1, 64))
    assert alone == together
    assert len(alone[1].splitlines()) == 9


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


def test_painted_pictures_depend_on_the_ids_alone(tokenize, monkeypatch, tmp_path):
    monkeypatch.setattr(SeedTokenizer, "paint", partialmethod(SeedTokenizer.paint, steps=1))  # quickly rather than well
    save_painter(tmp_path / "painter", build_painter(12))
    export(tmp_path / "tokenizer", painter=str(tmp_path / "painter"))
    folder = fill(tmp_path / "photos", 2)
    (folder / "z ö.png").write_bytes((folder / "0001.png").read_bytes())
    code, out, _ = tokenize("photos", "--paint", "painted", tokenizer=tmp_path / "tokenizer")
    assert code == 0
    assert len(ids_of(out)) == 3
    painted = sorted((tmp_path / "painted").iterdir())
    assert [path.name for path in painted] == ["000001-0000.png", "000002-0001.png", "000003-z__.png"]
    first, second, third = (Image.open(path).tobytes() for path in painted)
    assert second == third != first


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jpg", "photos", "empty"], 3, "none.jpg does not exist; folder empty holds no pictures"),
        (["photos", "--batch-size", "0"], 2, "--batch-size is 0; at least 1"),
        (["photos", "--paint", "file"], 2, "--paint is file, which is no folder"),
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
    assert "is 10, but 12 is needed" in err


def test_a_reader_that_has_seen_enough_ends_it_quietly(tokenize, monkeypatch, tmp_path):
    fill(tmp_path / "photos", 3)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert tokenize("photos", "--batch-size", "1") == (0, "", "")
