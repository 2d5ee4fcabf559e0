"""Shards over HTTP: the same samples as from disk whatever the server does, within the bytes of the cache."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

import seed_dist.data.remote as remote_module
from seed_dist.data.byte_cache import ByteCache
from seed_dist.data.reader import FeatureShards, PairedFeatures
from seed_dist.errors import DataError
from tests.features import write_features
from tests.file_server import serving

SAMPLES, PER_SHARD = 40, 15
VALUES = np.random.default_rng(0).standard_normal((SAMPLES, 30, 16)).astype(np.float16)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A set whose shards a server has, and the server; extents of four samples, retries without pauses."""
    monkeypatch.setattr(remote_module, "_EXTENT_BYTES", 4 * 2048)
    monkeypatch.setattr(remote_module, "_FIRST_PAUSE_S", 0.01)
    folder = write_features(tmp_path, "train", "causal", VALUES, ["c"] * SAMPLES, per_shard=PER_SHARD)
    (tmp_path / "server").mkdir()
    for shard in folder.glob("*.tar"):
        shard.rename(tmp_path / "server" / shard.name)
    with serving(tmp_path / "server") as server:
        describe(tmp_path, server)
        yield tmp_path, server


def describe(work, server, **other):
    value = {"url": server.url, "cache": str(work / "cache"), "cache_bytes": 1 << 27, **other}
    (work / "features/causal/train/remote.json").write_text(json.dumps(value))


def opened(work):
    return FeatureShards(work / "features/causal/train")


def cached(work):
    return sorted(path for path in (work / "cache").rglob("*") if path.is_file() and not path.name.startswith("."))


def test_any_selection_is_what_was_written_and_is_fetched_once(remote):
    work, server = remote
    rng = np.random.default_rng(1)
    for ids in (np.arange(SAMPLES), rng.permutation(SAMPLES), rng.integers(0, SAMPLES, 100)):
        assert (opened(work).read(ids) == VALUES[ids]).all()
    ranges = [request.split("=")[1] for request in server.requests]
    assert len(server.requests) == len(set(server.requests)) == len(cached(work)) == 11  # 4 + 4 + 3 extents
    assert all(int(end) - int(begin) < 4 * 2048 for begin, end in (part.split("-") for part in ranges))


@pytest.mark.parametrize("faults", [["500"], ["truncate"], ["whole"], ["flip"], ["500", "truncate", "whole", "500"]])
def test_a_server_that_fails_for_a_while_changes_nothing(remote, faults):
    work, server = remote
    server.faults = list(faults)
    assert (opened(work).read(np.arange(SAMPLES)) == VALUES).all()
    assert server.faults == []


def test_a_server_that_keeps_failing_is_named_with_the_bytes(remote):
    work, server = remote
    shards = opened(work)
    server.faults = ["500"] * 5
    with pytest.raises(DataError, match=r"bytes \d+ to \d+ of http.*shard-000002.tar cannot be fetched in 5 attempts"):
        shards.read(np.array([39]))
    assert (shards.read(np.array([39])) == VALUES[39]).all()  # and it is well again when the server is


def test_a_missing_shard_is_named_at_once(remote):
    work, server = remote
    shards = opened(work)
    (work / "server/shard-000001.tar").unlink()
    before = len(server.requests)
    with pytest.raises(DataError, match=r"shard http.*shard-000001.tar is not there"):
        shards.read(np.array([20]))
    assert len(server.requests) == before + 1


def test_a_damaged_copy_is_fetched_anew_and_a_damaged_original_is_an_error(remote):
    work, server = remote
    opened(work).read(np.arange(SAMPLES))
    copy = cached(work)[3]
    data = bytearray(copy.read_bytes())
    data[700] ^= 1
    copy.write_bytes(data)
    before = len(server.requests)
    assert (opened(work).read(np.arange(SAMPLES)) == VALUES).all()
    assert len(server.requests) == before + 1
    cached(work)[5].write_bytes(b"cut")
    assert (opened(work).read(np.arange(SAMPLES)) == VALUES).all()

    original = work / "server/shard-000000.tar"
    data = bytearray(original.read_bytes())
    data[1024 + 300] ^= 1
    original.write_bytes(data)
    for file in cached(work):
        file.unlink()
    with pytest.raises(DataError, match=r"sample 00000000 in http.*shard-000000.tar has checksum"):
        opened(work).read(np.arange(3))


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_not_used_for_longest(tmp_path):
    cache = ByteCache(tmp_path / "cache", 1000)
    for number in range(8):
        cache.add(f"set/{number}", bytes([number]) * 100)
    kept = cache.open("set/0", 100)  # used again
    assert kept is not None

    for number in range(8, 14):
        cache.add(f"set/{number}", bytes([number]) * 100)
        assert sum(path.stat().st_size for path in (tmp_path / "cache/set").iterdir()) <= 1000
    names = {path.name for path in (tmp_path / "cache/set").iterdir()}
    assert {"0", "13"} <= names
    assert not {"1", "2"} & names
    assert os.pread(kept, 100, 0) == bytes(100)
    os.close(kept)
    assert cache.open("set/1", 100) is None
    assert cache.open("set/13", 99) is None  # not what was asked for


def test_a_set_larger_than_its_cache_is_read_all_the_same(remote):
    work, server = remote
    describe(work, server, cache_bytes=4 * (4 << 20))
    cache = opened(work)._files._storage._cache
    cache._size_bytes = 3 * 4 * 2048
    shards = opened(work)
    shards._files._storage._cache = cache
    order = np.random.default_rng(0).permutation(SAMPLES)
    for id_ in order:
        assert (shards.read(np.array([id_]))[0] == VALUES[id_]).all()
        assert sum(path.stat().st_size for path in cached(work)) <= 3 * 4 * 2048


def test_threads_fetch_an_extent_once(remote):
    work, server = remote
    server.delay_s = 0.1
    shards, wrong = opened(work), []
    before = len(server.requests)
    threads = [
        threading.Thread(target=lambda: wrong.append(not (shards.read(np.arange(20, 24)) == VALUES[20:24]).all()))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 6
    assert len(set(server.requests[before:])) == len(server.requests[before:]) <= 2


def test_what_is_announced_is_there_when_it_is_read(remote):
    work, server = remote
    both = PairedFeatures(work, "train", ("causal",))
    assert both.is_remote
    both.announce(np.array([39, 0, 20]))
    for _ in range(200):
        if len(cached(work)) >= 3:
            break
        threading.Event().wait(0.02)
    before = len(server.requests)
    assert (both.read(np.array([39, 0, 20]))["causal"] == VALUES[[39, 0, 20]]).all()
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "remote.json is not JSON"),
        ("{}", "url: .*cache: .*cache_bytes: "),
        ('{"url": "http://a", "cache": "c", "cache_bytes": 5}', "cache_bytes: .*greater"),
        ('{"url": "nothing://a", "cache": "c", "cache_bytes": 100000000}', "nothing://a cannot be opened: .*nothing"),
        ('{"url": "http://a", "cache": "c", "cache_bytes": 100000000, "uri": 1}', "uri: "),
    ],
)
def test_a_wrong_description_says_what_is_wrong(tmp_path, text, message):
    folder = write_features(tmp_path, "train", "causal", VALUES, ["c"] * SAMPLES)
    (folder / "remote.json").write_text(text)
    with pytest.raises(DataError, match=message):
        FeatureShards(folder)
