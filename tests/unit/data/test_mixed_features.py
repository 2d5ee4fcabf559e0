"""Several splits read as one set: every sample from its own files, wherever they lie, into the caller's memory."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import seed_dist.data.remote as remote_module
from seed_dist.data.manifest import QUARANTINED, Manifest, load_manifest, write_manifest
from seed_dist.data.mixed_features import MixedFeatures
from seed_dist.data.reader import PairedFeatures
from seed_dist.data.shard_files import ShardFiles
from seed_dist.errors import MismatchError
from tests.features import write_features
from tests.file_server import serving

SIZES = {"a": 30, "b": 7, "c": 50}
TARGETS = ("causal", "image_embedding")
NAMES = ("causal", "image_embedding", "causal.view1", "image_embedding.view1")


def value(split: str, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """What is stored: split, target, view and row can be read off it."""
    base = (1 + ord(split) - ord("a")) * 4 + NAMES.index(name)
    shape = (4, 6) if name.startswith("causal") else (5,)
    full = np.broadcast_to((base * 64 + rows).reshape(-1, *(1 for _ in shape)), (len(rows), *shape))
    return np.ascontiguousarray(full, np.float16 if name.startswith("causal") else np.float32)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for split, size in SIZES.items():
        for name in NAMES:
            captions, more = [f"{split}{row}" for row in range(size)], [(f"other {row}",) for row in range(size)]
            write_features(tmp_path, split, name, value(split, name, np.arange(size)), captions, "w", 20, more)
    return tmp_path


def opened(work: Path, views: int = 2) -> MixedFeatures:
    return MixedFeatures({split: PairedFeatures(work, split, TARGETS, views) for split in SIZES})


def expected(ids: npt.NDArray[np.int64], target: str, views: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    everything = [value(s, f"{target}{v}", np.arange(n)) for v in ("", ".view1") for s, n in SIZES.items()]
    return np.concatenate(everything)[ids + views * sum(SIZES.values())]


@pytest.mark.parametrize("is_sorted", [True, False])
def test_any_selection_is_what_was_written_in_the_callers_memory(work: Path, is_sorted: bool) -> None:
    features, rng = opened(work), np.random.default_rng(0)
    assert len(features) == 87
    for count in (1, 8, 87, 200, 0):
        ids, views = rng.integers(0, 87, count), rng.integers(0, 2, count)
        ids = np.sort(ids) if is_sorted else ids
        plain = np.zeros_like(views)
        memory = {target: np.full_like(expected(ids, target, plain), -1) for target in TARGETS}
        found = features.read(ids, memory)
        for target in TARGETS:
            assert found[target] is memory[target]
            assert np.array_equal(found[target], expected(ids, target, plain))
            assert np.array_equal(features.read(ids, views=views)[target], expected(ids, target, views))
        assert [features.all_captions[i] for i in ids] == [_caption(int(i)) for i in ids]


def _caption(number: int) -> tuple[str, str]:
    for split, size in SIZES.items():
        if number < size:
            return f"{split}{number}", f"other {number}"
        number -= size
    raise AssertionError(number)


def test_ascending_samples_of_a_split_are_read_without_a_copy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split fills its own stretch of the caller's memory, in one call."""
    features, calls = opened(work, 1), []
    read = PairedFeatures.read
    memory = {target: np.empty((20, *features.sets[target].shape), features.sets[target].dtype) for target in TARGETS}

    def watched(self: PairedFeatures, ids: Any, out: Any = None, views: Any = None) -> Any:
        calls.append([np.shares_memory(out[target], memory[target]) for target in TARGETS])
        return read(self, ids, out, views)

    monkeypatch.setattr(PairedFeatures, "read", watched)
    features.read(np.arange(25, 45), memory)
    assert calls == [[True, True]] * 3


def test_samples_without_features_are_not_among_them(work: Path) -> None:
    folder = work / "features/causal/b"
    manifest = load_manifest(folder)
    details = {**manifest.details, QUARANTINED: [0, 3]}
    write_manifest(folder, Manifest("features", 7, manifest.shards, manifest.parents, details))
    features = opened(work, 1)
    assert len(features) == 85
    assert [features.all_captions[i][0] for i in range(29, 36)] == ["a29", "b1", "b2", "b4", "b5", "b6", "c0"]
    rows = features.read(np.arange(30, 35))["causal"]
    assert np.array_equal(rows, value("b", "causal", np.array([1, 2, 4, 5, 6])))


def test_the_fingerprint_is_that_of_all_splits(work: Path) -> None:
    before = opened(work, 1).fingerprint
    (work / "features/image_embedding/c/manifest.json").unlink()
    folder = work / "features/image_embedding/c"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    other = value("c", "image_embedding", np.arange(50)) + 1
    write_features(work, "c", "image_embedding", other, [f"c{row}" for row in range(50)], "w", 20)
    assert opened(work, 1).fingerprint != before


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        (
            np.zeros((7, 4, 5), np.float16),
            "w",
            r"shape of .*causal/b is \{'shape': \[4, 5\]\}, but \{'shape': \[4, 6\]\}",
        ),
        (np.zeros((7, 4, 6), np.float32), "w", r"dtype of .*'float32'\}, but \{'dtype': 'float16'\}"),
        (np.zeros((7, 4, 6), np.float16), "v", r"weights_sha256 of .*causal/b is \{'weights_sha256': 'v'\}, but .*'w'"),
    ],
)
def test_features_that_were_made_otherwise_are_refused_with_both_values(
    work: Path, values: npt.NDArray[Any], weights: str, message: str
) -> None:
    folder = work / "features/causal/b"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    write_features(work, "b", "causal", values, [f"b{row}" for row in range(7)], weights, 20, [("o",)] * 7)
    with pytest.raises(MismatchError, match=message):
        MixedFeatures({split: PairedFeatures(work, split, ("causal",)) for split in SIZES})


def test_one_split_may_lie_elsewhere(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is announced of it is fetched ahead, by its own numbers, and nothing for the samples of the others."""
    monkeypatch.setattr(remote_module, "_EXTENT_BYTES", 2 * 1024)  # two samples
    folder = work / "features/causal/b"
    (work / "server").mkdir()
    for shard in folder.glob("*.tar"):
        shard.rename(work / "server" / shard.name)
    with serving(work / "server") as server:
        cache = {"url": server.url, "cache": str(work / "cache"), "cache_bytes": 1 << 27}
        (folder / "remote.json").write_text(json.dumps(cache))
        features = MixedFeatures({split: PairedFeatures(work, split, ("causal",)) for split in SIZES})
        assert features.is_remote
        assert len(server.requests) == 1  # for the header of its first sample
        features.announce(np.array([0, 29, 37, 86]))
        ids = np.arange(25, 40)
        features.announce(ids)
        deadline_s = time.monotonic() + 20
        while len([path for path in (work / "cache").rglob("0*") if path.is_file()]) < 4:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert len(server.requests) == 4
        assert np.array_equal(features.read(ids)["causal"], expected(ids, "causal", np.zeros_like(ids)))
        assert len(server.requests) == 4


def test_what_a_thread_reads_is_named_whichever_split_it_is_in(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, named = opened(work, 1), []
    call = ShardFiles._call

    def watched(self: ShardFiles, *arguments: Any) -> None:
        named.append((features.read_of(threading.get_ident()) or ("", 0))[0])
        call(self, *arguments)

    monkeypatch.setattr(ShardFiles, "_call", watched)
    features.read(np.array([2, 31, 80]))
    assert [name.rpartition("/features/")[2].partition("/shard")[0] for name in named] == [
        f"{target}/{split}" for split in "abc" for target in TARGETS
    ]
    assert features.read_of(threading.get_ident()) is None
