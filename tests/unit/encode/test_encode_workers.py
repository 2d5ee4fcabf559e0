"""Several processes on one set: they share the shards, may die or sleep, and never mix."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from seed_dist.data.assembly import Assembly, Plan
from seed_dist.data.leases import Leases
from seed_dist.data.manifest import load_manifest
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.encode import job as job_module
from seed_dist.encode.feature_shard import open_feature_shard
from seed_dist.encode.job import Job, feature_plan
from seed_dist.encode.status import workspace_status
from seed_dist.errors import MismatchError
from seed_dist.fsio import sha256_file
from tests.pictures import content, fill
from tests.unit.encode.test_encode_runner import Means, encode_split

SAMPLES, PER_SHARD = 60, 5
WAIT_S = 100


@pytest.fixture
def images(tmp_path):
    """WORK/images/train: 12 shards of 5."""
    shard_source(fill(tmp_path / "source", SAMPLES), tmp_path / "images" / "train", ShardOptions(PER_SHARD, 0.0, 1))
    return tmp_path / "images" / "train"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "features" / "patches" / "train"


@pytest.fixture
def worker(root, images, out):
    """Starts a process that encodes `images` into `out`, a shard in a twentieth of a second; none outlives the test."""
    started = []

    def start(fault="", weights="w1", pause_s=0.05):
        script = textwrap.dedent(f"""
            import sys, time
            from pathlib import Path
            from tests.unit.encode.test_encode_runner import Means, encode_split
            class Slow(Means):
                def __call__(self, batch):
                    time.sleep({pause_s})
                    return super().__call__(batch)
            encoder = Slow(weights={weights!r})
            encode_split(Path({str(images)!r}), {{Path({str(out)!r}): encoder}}, stale_after_s=1.5)
            print(len(encoder.seen))
        """)
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": fault},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    return int(output)


def unbroken(tmp_path, images):
    encode_split(images, {tmp_path / "unbroken": Means()})
    return content(tmp_path / "unbroken")


def wait_for(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_worker_loses_its_unfinished_shards_alone(tmp_path, images, out, worker):
    victim = worker("encode.shard_announced:0:1:kill")
    assert victim.wait(timeout=WAIT_S) == -9
    announced = {path.name for path in (out / ".progress").glob("shard-*.json")}
    assert announced == {"shard-000000.json", "shard-000001.json"}
    assert sum(ended(process) for process in (worker(), worker())) == SAMPLES - 2 * PER_SHARD  # each sample once
    assert content(out) == unbroken(tmp_path, images)


def test_a_worker_that_sleeps_is_overtaken_and_spoils_nothing(tmp_path, images, out, worker):
    sleeper = worker("encode.shard_announced:0:1:stop")
    wait_for((out / ".progress" / "shard-000001.json").exists)
    other = worker()
    assert ended(other) == SAMPLES - 2 * PER_SHARD  # with the shard that the sleeper had begun
    before = content(out)
    os.kill(sleeper.pid, signal.SIGCONT)
    ended(sleeper)
    assert content(out) == before == unbroken(tmp_path, images)


def job_on(images, out, weights="w1"):
    encoder, source = Means(weights=weights), load_manifest(images)
    return Job(out, encoder, source, feature_plan(encoder, source, None), stale_after_s=60)


def overslept(out, shard, number=0):
    os.utime(out / ".progress" / "leases" / f"{shard}.{number}", (time.time() - 100,) * 2)


def test_a_sleeper_at_its_rename_finds_nothing_to_rename(images, out):
    late, heir, shard = job_on(images, out), job_on(images, out), "shard-000000.tar"
    lease = late.claim(shard)
    writing = open_feature_shard(out / shard, late.details)
    writing.__enter__()
    overslept(out, shard)
    with heir.claim(shard):
        assert list(out.glob("*.partial")) == []
    with pytest.raises(FileNotFoundError):
        writing.__exit__(None, None, None)
    assert not lease.is_held()
    assert not (out / shard).exists()
    lease.release()


def test_a_record_of_other_bytes_than_the_files_is_not_committed(tmp_path, images, out, monkeypatch):
    """Two that had the same shard, on hardware that rounds otherwise, one asleep between rename and record."""
    late, shard = job_on(images, out), "shard-000000.tar"
    encode_split(images, {tmp_path / "elsewhere": Means()})
    with late.claim(shard), open_feature_shard(out / shard, late.details) as file:
        pass
    record = file.record()
    overslept(out, shard)

    def finish(self, fraction, original=Job.finish):
        if shard in self.done and not self._assembly.is_finished() and record is not None and not woken:
            woken.append(True)
            late._assembly.announce(record)  # over the heir's record, of a file of other bytes
            (out / shard).write_bytes(
                (out / shard).read_bytes()[: record.entry.size_bytes].ljust(record.entry.size_bytes)
            )
        original(self, fraction)

    woken = []
    monkeypatch.setattr(job_module.Job, "finish", finish)
    encode_split(images, {out: Means()})
    assert woken
    assert content(out) == content(tmp_path / "elsewhere")
    assert all(sha256_file(out / entry.name) == entry.sha256 for entry in load_manifest(out).shards)


def test_others_see_a_worker_join_it_or_are_refused(tmp_path, images, out, worker):
    assert workspace_status(tmp_path) == []
    slow = worker(pause_s=0.5)
    wait_for(lambda: len(list((out / ".progress").glob("shard-*.json"))) >= 3)
    with pytest.raises(MismatchError, match=r"weights_sha256 of .* is 'w1', but 'w2' is needed"):
        encode_split(images, {out: Means(weights="w2")})
    (status,) = workspace_status(tmp_path, ["patches"], ["train"])
    assert (status.samples, status.shards) == (SAMPLES, SAMPLES // PER_SHARD)
    assert 3 <= status.shards_done < status.shards
    assert status.samples_done == status.shards_done * PER_SHARD
    assert {holding.owner.process for holding in status.owners} == {slow.pid}
    assert "working" in "\n".join(status.lines())
    assert 0.2 < status.rate < 1.2 * PER_SHARD / 0.5  # a busy machine may be slower than the pause, never faster
    assert status.left_s == pytest.approx((SAMPLES - status.samples_done) / status.rate)
    rest = Means()
    encode_split(images, {out: rest})
    assert 0 < len(rest.seen) < SAMPLES
    assert ended(slow) + len(rest.seen) == SAMPLES
    (status,) = workspace_status(tmp_path)
    assert (status.samples_done, status.owners) == (SAMPLES, ())


def test_of_plans_that_begin_at_once_one_counts(tmp_path):
    gate, refused = threading.Barrier(8), []

    def begin(number):
        assembly = Assembly(tmp_path, Plan("features", {}, {"weights_sha256": str(number)}))
        gate.wait()
        try:
            assembly.begin()
        except MismatchError:
            refused.append(number)

    beginners = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for beginner in beginners:
        beginner.start()
    for beginner in beginners:
        beginner.join()
    plan = json.loads((tmp_path / ".progress" / "plan.json").read_text())
    assert sorted([*refused, int(plan["details"]["weights_sha256"])]) == list(range(8))


def test_leases_go_with_the_progress(images, out):
    encode_split(images, {out: Means()})
    assert not (out / ".progress").exists()
    assert Leases(out / ".progress" / "leases").claim("shard-000000.tar") is None
