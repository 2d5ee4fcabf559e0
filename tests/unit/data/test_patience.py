"""Sources that hang or fail for a while: every picture has so much time, is named where it does not come, and holds up
no other."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import fsspec
import pyarrow.parquet as pq
import pytest

import seed_dist.data.fetch as fetch_module
from seed_dist.data.filters import Filters
from seed_dist.data.patience import Patience
from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.table_source import Columns
from seed_dist.errors import DataError
from tests.file_server import serving
from tests.pictures import content, fill, picture

PAIRS = 24
SHORT = ShardOptions(
    shard_samples=8, workers=1, max_reject_fraction=1.0, patience=Patience(timeout_s=0.4, retries=1, fetches=4)
)
FETCH = replace(SHORT, columns=Columns(fetch=True))


@contextlib.contextmanager
def hanging(*paths):
    """Opening these files hangs, as on a network disk whose server is gone: the kernel waits for us to give up a lease
    (fcntl(2), F_SETLEASE), for 45 seconds at most."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # how the kernel asks for it
    files = [os.open(path, os.O_RDWR) for path in paths]
    for file in files:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        for file in files:
            os.close(file)
        signal.signal(signal.SIGIO, before)


def rejects(out):
    return {row["source"]: (row["reason"], row["detail"]) for row in pq.read_table(out / "rejects.parquet").to_pylist()}


@pytest.fixture
def source(tmp_path):
    return fill(tmp_path / "source", PAIRS)


@pytest.fixture
def unbroken(tmp_path, source):
    shard_source(source, tmp_path / "unbroken", SHORT)
    return content(tmp_path / "unbroken")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_hangs_is_one_named_loss_until_it_answers(tmp_path, source, unbroken, workers):
    out, options = tmp_path / "out", replace(SHORT, workers=workers)
    with hanging(source / "0003.png", source / "0012.txt"):
        manifest = shard_source(source, out, options).manifest
    assert manifest.details["rejected"] == {"timed_out": 2}
    assert rejects(out) == {
        "0003.png": ("timed_out", "no answer in 2 attempts of 0.4 s"),
        "0012.jpg": ("timed_out", "no answer from the .txt file"),
    }
    assert manifest.samples == PAIRS - 2
    assert not shard_source(source, out, replace(options, update=True)).was_finished
    assert content(out) == unbroken


def test_a_disk_that_hangs_stops_the_work_and_what_was_finished_stays(root, tmp_path, source, unbroken):
    out = tmp_path / "out"
    command = [sys.executable, str(root / "data_prep" / "shard.py"), str(source), str(out), "--shard-samples", "8"]
    command += ["--timeout-s", "0.2", "--retries", "0"]
    environment = {**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": "shard.announced:0:0:kill"}
    subprocess.run([*command, "--workers", "1"], env=environment, check=False, capture_output=True, timeout=100)
    before = (out / "shard-000000.tar").stat().st_mtime_ns
    with hanging(*(source / f"{i:04d}.txt" for i in range(10, 20))):
        environment.pop("SEED_DIST_FAULT")
        run = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=100)
    assert run.returncode == 3
    assert (
        f"8 items in a row did not come, the last of them {source / '0017.txt'}: the disk or the server" in run.stderr
    )
    shard_source(source, out, SHORT)
    assert content(out) == unbroken
    assert (out / "shard-000000.tar").stat().st_mtime_ns == before


def test_tars_and_tables_that_hang_or_are_pipes(tmp_path, source):
    shard_source(source, tmp_path / "tars", SHORT)
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    with hanging(tars[1]):
        made = shard_source(tars, tmp_path / "out", SHORT).manifest
    assert made.samples == 2 * 8
    assert list(rejects(tmp_path / "out")) == ["shard-000001.tar"]
    (tmp_path / "t.jsonl").write_text('{"image": "source/0000.jpg", "caption": "a"}')
    with (
        hanging(tmp_path / "t.jsonl"),
        pytest.raises(DataError, match=r"t.jsonl cannot be read: no answer in 2 attemp"),
    ):
        shard_source(tmp_path / "t.jsonl", tmp_path / "other", SHORT)
    for name in ("p.tar", "p.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="is no regular file"):
            shard_source(tmp_path / name, tmp_path / "other", SHORT)


def table(folder, urls):
    path = folder / "urls.jsonl"
    path.write_text("\n".join(json.dumps({"url": url, "caption": f"c{i}"}) for i, url in enumerate(urls)))
    return path


def test_urls_give_what_files_give_and_every_loss_has_its_reason(tmp_path, source, monkeypatch):
    monkeypatch.setattr(fetch_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fetch_module, "MAX_FETCH_BYTES", 60_000)
    names = sorted(path.name for path in source.iterdir() if path.suffix != ".txt")
    (source / "large.png").write_bytes(picture(0, size=(200, 200)))
    (source / "text.png").write_text("no picture")
    odd = ["absent.png", "large.png", "text.png"]
    with serving(source) as server:
        server.hanging, server.dripping = {f"/{names[3]}"}, {f"/{names[9]}"}
        server.headers = {f"/{names[5]}": {"X-Robots-Tag": "otherbot: noindex, noai"}}
        server.faults = ["500", "truncate"]
        urls = [*(f"{server.url}/{name}" for name in [*names, *odd]), "http://[oops/a.png", "http://127.0.0.1:9/a.png"]
        manifest = shard_source(table(tmp_path, [*urls, "here/a.png"]), tmp_path / "out", FETCH).manifest
    assert manifest.details["rejected"] == {
        "fetch_failed": 1, "image_too_large": 1, "missing_image": 1, "timed_out": 2, "unreadable_image": 1,
    }  # fmt: skip
    assert manifest.details["filtered"] == {"not_downloaded": 3}
    lost = {name.partition(": ")[2]: found for name, found in rejects(tmp_path / "out").items()}
    assert lost[urls[3]] == lost[urls[9]] == ("timed_out", "no answer in 2 attempts of 0.4 s")
    assert lost[urls[5]] == ("not_downloaded", "the site forbids it: X-Robots-Tag noai, noindex")
    assert lost[urls[PAIRS]] == ("not_downloaded", "status 404")
    assert lost[urls[-1]][1].startswith("in 2 attempts: NewConnectionError")
    shards, kept = ImageShards(tmp_path / "out"), [i for i in range(PAIRS) if i not in (3, 5, 9)]
    assert shards.captions == [f"c{i}" for i in kept]
    assert [shards.image_bytes(row) for row in range(len(shards))] == [(source / names[i]).read_bytes() for i in kept]


def test_one_that_hangs_holds_up_nobody_and_comes_later(tmp_path, source):
    """Sixteen more are read while it is waited for; with --update its shard alone is asked for again."""
    out, patient = tmp_path / "out", replace(FETCH, shard_samples=8, patience=Patience(2.0, 0, 4))
    names = sorted(path.name for path in source.iterdir() if path.suffix != ".txt")
    options = replace(patient, filters=Filters(drop_duplicates="exact"))
    with serving(source) as server:
        urls = table(tmp_path, [f"{server.url}/{name}" for name in names])
        shard_source(urls, tmp_path / "unbroken", patient)
        server.hanging, server.requests[:] = {f"/{names[0]}"}, []
        started = time.monotonic()
        manifest = shard_source(urls, out, patient).manifest
        assert 2.0 < time.monotonic() - started < 4.0
        assert (manifest.samples, manifest.details["rejected"]) == (PAIRS - 1, {"timed_out": 1})
        server.hanging, server.requests[:] = set(), []
        assert shard_source(urls, out, replace(patient, update=True)).manifest.samples == PAIRS
        assert {request.split()[0].lstrip("/") for request in server.requests} == set(names[:8])
        assert content(out) == content(tmp_path / "unbroken")
        assert shard_source(urls, tmp_path / "no_doubles", options).manifest.samples == PAIRS


def test_any_file_system_that_fsspec_knows(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/pictures/a.png", picture(1))
    urls = table(
        tmp_path,
        ["memory://pictures/a.png", "memory://pictures/b.png", "nonsense://a", "ftp://", f"FILE://{tmp_path}/a"],
    )
    manifest = shard_source(urls, tmp_path / "out", FETCH).manifest
    assert ImageShards(tmp_path / "out").image_bytes(0) == picture(1)
    assert manifest.details["filtered"] == {"not_downloaded": 4}
    memory.rm("/pictures", recursive=True)
    with pytest.raises(DataError, match=r"abfs://c/a.png cannot be fetched: .*Install that package"):
        shard_source(table(tmp_path, ["abfs://c/a.png"]), tmp_path / "other", FETCH)
