"""A training is in MLflow once, whole and in order, whatever the server went through; and training never waited for it.

Against a real `mlflow server`, behind a proxy that hangs, answers 500, is slow, or closes before it answers.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seed_dist.config import load_recipe
from seed_dist.errors import DataError, LockedError, TrackingError
from seed_dist.fsio import folder_lock
from seed_dist.obs.destination import own_database
from seed_dist.obs.followed import Followed
from seed_dist.obs.journal import JOURNAL, Journal, read_journal
from seed_dist.obs.provenance import RUN, attempt, record_run, stage_identity
from seed_dist.sync import copy, sync, waits_s
from tests.harness import ROOT
from tests.tracking_server import Proxy, TrackingServer, proxied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EXPERIMENT = "seed_dist/codebook"
SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_ENABLE_ASYNC_LOGGING": "true"}  # the latter must not matter


@dataclass
class Place:
    """The server, and the proxy that clients see."""

    server: TrackingServer
    proxy: Proxy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = TrackingServer(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        with proxied(server.port) as proxy:
            yield Place(server, proxy)
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("seed_dist.sync._FIRST_WAIT_S", 0.1)
    monkeypatch.setattr("seed_dist.sync._LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr("seed_dist.sync.POLL_S", 0.1)


_seeds = itertools.count(1)


def _run_directory(tmp_path: Path, seed: int | None = None) -> Path:
    """A run directory with its record, no other run's equal unless a seed is given."""
    recipe = load_recipe("glyphs", [f"seed={next(_seeds) if seed is None else seed}"])
    folder = tmp_path / "codebook"
    record_run(folder, recipe, stage_identity(recipe, "codebook", {"train": "aa", "val": "bb"}), world_size=1)
    return folder


def _train(run: Path, first: int, last: int, end: str = "checkpoint", pause_s: float = 0.0) -> float:
    """Journal of an attempt at steps first+1 to last; the value is the longest that a line took."""
    journal, longest_s = Journal(run / JOURNAL), 0.0
    journal.write("start", first, **attempt())
    for step in range(first + 1, last + 1):
        began_s = time.monotonic()
        journal.write("step", step, loss=1 / step + first, lr=0.1)
        longest_s = max(longest_s, time.monotonic() - began_s)
        time.sleep(pause_s)
    journal.write("validation", last, i2t_r1=0.25)
    if end:
        journal.write(end, last)
    journal.close()
    return longest_s


def _found(uri: str, run: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    seed = _seed(run)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return [] if experiment is None else client.search_runs([experiment.experiment_id], f"params.seed = '{seed}'")


def _seed(run: Path) -> int:
    return int(json.loads((run / RUN).read_text())["identity"]["seed"])


def _assert_whole(uri: str, run: Path, runs: int = 1) -> Any:
    """One run, with exactly the journal's points in the journal's order; the value is the run."""
    from mlflow import MlflowClient

    client, found = MlflowClient(tracking_uri=uri), _found(uri, run)
    assert len(found) == runs
    records = read_journal(run / JOURNAL)
    for name, event in (("loss", "step"), ("validation/i2t_r1", "validation")):
        expected = [
            (one["step"], one[name.split("/")[-1]], int(one["time_s"] * 1000))
            for one in records
            if one["event"] == event
        ]
        history = client.get_metric_history(found[0].info.run_id, name)
        assert [(point.step, point.value, point.timestamp) for point in history] == expected
    return found[0]


@pytest.mark.parametrize("mood", ["hangs", "broken", "slow", "dies"])
def test_a_training_beside_a_sick_server_never_waits_and_is_whole_afterwards(
    place: Place, tmp_path: Path, mood: str
) -> None:
    run = _run_directory(tmp_path)
    training = subprocess.Popen(["sleep", "1000"])
    copying = threading.Thread(target=lambda: _follow(run, place.proxy.url, training.pid))
    copying.start()
    try:
        _train(run, 0, 600)
        place.proxy.mood = mood
        before = place.proxy.requests
        longest_s = _train(run, 600, 1500, pause_s=0.003)
        deadline_s = time.monotonic() + 20
        while place.proxy.requests < before + 2 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert place.proxy.requests >= before + 2  # it did try while the server was sick
        assert longest_s < 1.0
    finally:
        place.proxy.mood = "well"
        _train(run, 1500, 1510, "finished")
        training.kill()
        training.wait()
        copying.join(60)
    assert not copying.is_alive()
    assert _assert_whole(place.server.url, run).info.status == "FINISHED"


def _follow(run: Path, uri: str, training: int) -> None:
    from seed_dist.obs.mlflow_sink import MlflowSink

    copy(MlflowSink(run, uri).copy, Followed(training), 60.0)


def test_down_at_the_start_and_killed_in_the_middle(place: Place, tmp_path: Path) -> None:
    run = _run_directory(tmp_path)
    place.server.kill()
    _train(run, 0, 5000)
    with pytest.raises(TrackingError, match="not complete in MLflow"):
        sync(run, place.server.url, patience_s=0.3)
    done: list[int] = []
    copying = threading.Thread(target=lambda: done.append(sync(run, place.server.url, patience_s=120.0)))
    copying.start()
    place.server.start()
    deadline_s = time.monotonic() + 30
    while not _has_points(place.server.url, run) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    place.server.kill()  # some batches are there
    time.sleep(0.5)
    place.server.start()
    copying.join(90)
    assert done
    assert _assert_whole(place.server.url, run).info.status == "KILLED"


def _has_points(uri: str, run: Path) -> bool:
    found = _found(uri, run)
    return bool(found) and "loss" in found[0].data.metrics


def test_one_run_through_all_attempts_and_what_was_lost_never_comes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, uri = _run_directory(tmp_path), place.server.url
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    _train(run, 0, 4)
    _train(run, 4, 9, end="")  # dies without a save
    assert sync(run, uri, 30.0) == 5
    first = _found(uri, run)[0]
    moved = run.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("SLURM_JOB_ID", "72")
    _train(moved, 4, 12, "finished")
    assert sync(moved, uri, 30.0) == 9
    assert sync(moved, uri, 30.0) == 0
    last = _assert_whole(uri, moved)
    assert last.info.run_id == first.info.run_id
    assert last.data.tags["slurm_job_ids"] == "71 72"
    assert last.data.tags["attempts"] == "3"
    assert last.data.tags["manifest.train"] == "aa"
    assert last.data.params["codebook.size"] == str(load_recipe("glyphs").codebook.size)


def test_going_back_behind_what_was_sent_trashes_the_old_run(place: Place, tmp_path: Path) -> None:
    run, uri = _run_directory(tmp_path), place.server.url
    _train(run, 0, 8)
    sync(run, uri, 30.0)
    old = _found(uri, run)[0].info.run_id
    _train(run, 3, 6)  # the checkpoint of step 8 was damaged
    sync(run, uri, 30.0)
    assert _assert_whole(uri, run).info.run_id != old


def test_two_users_with_equal_recipes_have_a_run_each_and_an_older_copy_is_refused(
    place: Place, tmp_path: Path
) -> None:
    seed, uri = 10_000, place.server.url
    runs = [_run_directory(tmp_path / user, seed) for user in ("ann", "bob")]
    for run in runs:
        _train(run, 0, 3)
        sync(run, uri, 30.0)
        time.sleep(0.002)
    assert len(_found(uri, runs[0])) == 2
    older = tmp_path / "older"
    shutil.copytree(runs[0], older)
    _train(runs[0], 3, 6)
    sync(runs[0], uri, 30.0)
    with pytest.raises(DataError, match="older copy"):
        sync(older, uri, 30.0)
    with folder_lock(next((older / ".mlflow").iterdir()), "test"), pytest.raises(LockedError):
        sync(older, uri, 30.0)


def test_the_command_goes_on_after_it_was_killed_takes_several_runs_and_sends_files(
    place: Place, tmp_path: Path
) -> None:
    runs = [_run_directory(tmp_path / name) for name in ("one", "two")]
    _train(runs[0], 0, 4000, "finished")
    _train(runs[1], 0, 5)
    (runs[0] / "nodes").mkdir()
    node = Journal(runs[0] / "nodes" / "node7.jsonl")
    node.write("node", 1, disk_free_bytes=5)
    node.close()
    (runs[0] / "export").mkdir()
    (runs[0] / "export" / "config.json").write_text("{}")
    (runs[0] / "export" / "model.safetensors").write_bytes(b"heavy")
    (tmp_path / "one" / "report.html").write_text("<html>")
    command = [sys.executable, "-m", "seed_dist.sync", *map(str, runs), "--to", place.proxy.url, "--patience", "5"]
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    place.proxy.mood = "slow"
    started = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while not _has_points(place.server.url, runs[0]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    started.kill()
    started.wait()
    place.proxy.mood = "well"
    assert 0 < _copied(place.server.url, runs[0]) < 4001
    with_a_stranger = [*command[:3], str(tmp_path), *command[3:]]
    done = subprocess.run(with_a_stranger, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == DataError.exit_code, done.stderr  # and the others are copied all the same
    assert f"{tmp_path} is no run directory" in done.stderr
    whole = _assert_whole(place.server.url, runs[0])
    _assert_whole(place.server.url, runs[1])
    assert whole.data.metrics["node/node7/disk_free_bytes"] == 5
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place.server.url)
    names = [f.path for at in ("", "export") for f in client.list_artifacts(whole.info.run_id, at) if not f.is_dir]
    assert sorted(names) == ["export/config.json", "report.html", "run.json"]


def _copied(uri: str, run: Path) -> int:
    return int(_found(uri, run)[0].data.tags["journal_copied"].split()[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made of a small tmpfs, which needs root")
def test_a_full_disk_delays_and_loses_nothing(tmp_path: Path) -> None:
    """The run's own database, on a disk of its own that has no room until somebody makes some."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        run, uri = _run_directory(tmp_path), f"sqlite:///{disk / 'mlflow.db'}"
        _train(run, 0, 20)
        sync(run, uri, 30.0)
        room = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"x" * (room - 4096 * (room % 4096 == 0)))
        _train(run, 20, 3000, "finished")
        with pytest.raises(TrackingError, match="full"):
            sync(run, uri, 0.3)
        (disk / "ballast").unlink()
        sync(run, uri, 30.0)
        _assert_whole(uri, run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_without_a_server_the_run_has_its_own_database(tmp_path: Path) -> None:
    run = _run_directory(tmp_path)
    _train(run, 0, 3, "finished")
    uri = own_database(run)
    assert (sync(run, uri, 30.0), sync(run, uri, 30.0)) == (4, 0)
    assert _assert_whole(uri, run).info.status == "FINISHED"
    from seed_dist.obs.mlflow_sink import MlflowSink

    sink = MlflowSink(run, uri)
    run.rename(tmp_path / "codebook.old-1")  # by --fresh, under a copy that still follows
    with pytest.raises(DataError, match="renamed"):
        copy(sink.copy, Followed(os.getpid()), 30.0)


def test_waits_grow_to_a_limit_and_are_not_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = list(itertools.islice(waits_s(), 40))
    assert all(0.5 <= waits[0] <= 1.0 < wait <= 60.0 for wait in waits[3:])
    assert max(waits) > 30.0
    assert len(set(waits)) == len(waits)
