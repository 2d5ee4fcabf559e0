"""Suites that paint and write, by 1, 2 and 4 ranks, in batches and chunks of any size: records of the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seed_dist.dist.comm import Comm, LocalComm
from seed_dist.suites.command import finish, make
from seed_dist.suites.options import Bootstrap, Request
from seed_dist.suites.painting import BLOCK
from seed_dist.suites.places import Places
from seed_dist.suites.records import RecordFolder
from seed_dist.suites.selection import Options
from seed_dist.suites.suite import Record
from tests import forked
from tests.unit.eval.tiny_workspace import build
from tests.unit.models.judge_files import save_alexnet

pytestmark = pytest.mark.multirank
IMAGES, CHUNK = BLOCK + 3, 3  # chunks that fill no block, the last of them shorter
SUITES = ("reconstruction", "generation", "caption")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Request]:
    """What is measured, into a folder of the caller's. An untrained language model has to be made to write images."""
    folder = tmp_path_factory.mktemp("tiny")
    work, _ = build(folder, {"test": IMAGES})
    places = Places(work, lpips=save_alexnet(folder / "alexnet.pth"))
    options = Options(steps=2, force_image=True)
    return lambda out: Request(SUITES, ("workspace:test",), places, out, options, Bootstrap(50), CHUNK)


@pytest.fixture(scope="module")
def reference(asked: Callable[[Path], Request], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By one rank, in batches of 64."""
    return measured(asked(tmp_path_factory.mktemp("reference") / "out"))


def measured(request: Request) -> dict[str, Any]:
    """Suite -> its entry of the receipt, without what may differ, and the bits of its records; what is missing is made
    by this process."""
    made = make(request, LocalComm())
    list(finish(request, made))
    found = {}
    for entry in json.loads((request.out / "receipt.json").read_text())["measurements"]:
        work = next(work for work in made.done if work.suite.name == entry["suite"])
        kept = {name: entry[name] for name in ("figures", "protocol", "models", "set", "records_sha256")}
        found[entry["suite"]] = {**kept, "bits": [bits(record) for record in work.all_records()]}
    return found


def bits(record: Record) -> tuple[str, str, dict[str, bytes]]:
    arrays = {name: array.tobytes() for name, array in sorted(record.arrays.items())}
    return record.key, json.dumps(record.fields, sort_keys=True), arrays


def chunks_of_a_rank(comm: Comm, request: Request) -> list[tuple[str, int]]:
    """Makes this rank's part of the records; (suite, chunk) of what it wrote."""
    wrote, write = [], RecordFolder.write

    def noted(folder: RecordFolder, number: int, records: list[Record]) -> None:
        wrote.append((folder.folder.name, number))
        write(folder, number, records)

    RecordFolder.write = noted  # type: ignore[method-assign, assignment]  # this process ends with the rank
    make(request, comm)
    return wrote


def test_the_reference_is_worth_comparing_with(reference: dict[str, Any]) -> None:
    assert list(reference) == list(SUITES)
    for suite in SUITES:
        assert len({record for record, _, _ in reference[suite]["bits"]}) == IMAGES
    for suite in SUITES[:2]:
        arrays = [arrays for _, _, arrays in reference[suite]["bits"]]
        assert len({own["clip.painted"] for own in arrays}) == len({own["picture_painted"] for own in arrays}) == IMAGES
    names = {figure["name"] for suite in SUITES for figure in reference[suite]["figures"]}
    assert {"clip_similarity", "clip_score", "lpips", "fid_clip", "precision_clip", "valid_codes", "cider_d"} <= names


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_gives_the_same_bits(
    asked: Callable[[Path], Request], reference: dict[str, Any], tmp_path: Path, size: int
) -> None:
    request = asked(tmp_path / "out")
    wrote = forked.values(forked.world(chunks_of_a_rank, size, tmp_path, request))
    assert all({suite for suite, _ in own} >= set(SUITES[:2]) for own in wrote), "every rank painted"
    assert sorted(chunk for own in wrote for chunk in own) == sorted(
        (suite, n) for suite in SUITES for n in range(-(-IMAGES // CHUNK))
    )
    before = {path: path.stat().st_mtime_ns for path in (request.out / "records").rglob("chunk-*")}
    assert measured(request) == reference
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is compared was made by the ranks"


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_gives_the_same_bits(
    asked: Callable[[Path], Request], reference: dict[str, Any], tmp_path: Path, batch: int
) -> None:
    assert measured(replace(asked(tmp_path / "out"), batch_size=batch)) == reference


@pytest.mark.parametrize("chunk", [BLOCK, IMAGES])
def test_any_chunk_gives_the_same_bits(
    asked: Callable[[Path], Request], reference: dict[str, Any], tmp_path: Path, chunk: int
) -> None:
    """Its files are others, so their hash is."""
    found = measured(replace(asked(tmp_path / "out"), chunk=chunk))
    for suite, entry in found.items():
        assert {**entry, "records_sha256": reference[suite]["records_sha256"]} == reference[suite], suite


def test_fewer_that_are_painted_are_the_same_pictures(
    asked: Callable[[Path], Request], reference: dict[str, Any], tmp_path: Path
) -> None:
    """Evenly spaced, each as if all were painted; what is only written is written of all."""
    found = measured(replace(asked(tmp_path / "out"), painted=4))
    for suite in SUITES[:2]:
        assert found[suite]["bits"] == [reference[suite]["bits"][row] for row in (0, 2, 5, 8)]
        assert found[suite]["protocol"] == {**reference[suite]["protocol"], "examples": "4 of 11, evenly spaced"}
        assert (found[suite]["set"]["measured"], found[suite]["set"]["of"]) == (4, IMAGES)
    assert found["caption"] == reference["caption"]
