"""Several processes on one output: they share the work, whoever is killed, stopped or late, to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seed_dist.data import joint_work, sharding
from seed_dist.data.leases import Leases
from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import content, fill

PAIRS, SHARD = 120, 10
# The real work with one worker, so that it happens in this process; what it does is told as it does it.
PROCESS = """
import sys
from pathlib import Path
from seed_dist.data import sharding
from seed_dist.errors import SeedDistError

def told(name):
    function = getattr(sharding, name)
    def call(*arguments):
        print(name, getattr(arguments[0], "number", ""), flush=True)
        return function(*arguments)
    setattr(sharding, name, call)

told("make_listing")
told("write_image_shard")
source, out, samples, stale_after_s = sys.argv[1:]
options = sharding.ShardOptions(shard_samples=int(samples), workers=1, stale_after_s=float(stale_after_s))
try:
    sharding.shard_source(Path(source), Path(out), options)
except SeedDistError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def source(tmp_path):
    return fill(tmp_path / "source", PAIRS)


@pytest.fixture
def unbroken(tmp_path, source):
    shard_source(source, tmp_path / "unbroken", ShardOptions(shard_samples=SHARD, workers=1))
    return content(tmp_path / "unbroken")


@pytest.fixture
def start(root, tmp_path, source):
    """Starts a process on `out`; none outlives the test."""
    started = []

    def run(fault="", samples=SHARD, stale_after_s=60.0):
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(source), str(tmp_path / "out"), str(samples), str(stale_after_s)],
            env={**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": fault},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ends(process):
    """What the process told, and its errors; it must have ended well."""
    told, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return told.splitlines()


def made(told):
    return [int(line.split()[1]) for line in told if line.startswith("write_image_shard")]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_stopped(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_processes_share_the_shards_without_overlap(tmp_path, start, unbroken):
    first = start("shard.sample_written:*:15:stop")
    wait_for(lambda: is_stopped(first))
    others = [start(), start()]
    progress = tmp_path / "out" / ".progress"
    wait_for(lambda: len(list(progress.glob("shard-*.json"))) == PAIRS // SHARD - 1)
    wait_for(lambda: len(list(progress.glob("leases/process-*.0"))) == 3)  # nobody comes when all is done
    os.kill(first.pid, signal.SIGCONT)
    told = [ends(process) for process in (first, *others)]
    assert sorted(number for lines in told for number in made(lines)) == list(range(PAIRS // SHARD))
    assert sum("make_listing " in lines for lines in told) == 1
    assert content(tmp_path / "out") == unbroken


@pytest.mark.parametrize(
    "point",
    ["shard.sample_written:*:33", "shard.file_written:*:2", "shard.announced:*:4", "assembly.index_written:*:12"],
)
def test_the_work_of_a_killed_process_is_done_by_another(tmp_path, start, unbroken, point):
    """Both die at the same place when they come to it; a third, which has been waiting or is new, ends the work."""
    first, second, third = start(f"{point}:kill"), start(f"{point}:kill"), start()
    told = ends(third)
    assert first.wait(100) in (0, -signal.SIGKILL)
    assert second.wait(100) in (0, -signal.SIGKILL)
    assert content(tmp_path / "out") == unbroken
    assert len(made(told)) <= PAIRS // SHARD


def test_killed_at_any_time_by_anybody(tmp_path, start, unbroken):
    for _ in range(4):
        pair = [start(), start()]
        before = len(list((tmp_path / "out").glob("shard-*.tar")))
        wait_for(lambda before=before: len(list((tmp_path / "out").glob("shard-*.tar"))) > min(before, 11))
        for process in pair:
            process.kill()
            process.wait()
    ends(start())
    assert content(tmp_path / "out") == unbroken


def test_a_process_that_was_stopped_returns_to_a_finished_set_and_changes_nothing(tmp_path, start, unbroken):
    out = tmp_path / "out"
    stopped = start("shard.sample_written:*:15:stop", stale_after_s=1.0)
    wait_for(lambda: is_stopped(stopped))
    assert 1 in made(ends(start(stale_after_s=1.0)))
    state = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    os.kill(stopped.pid, signal.SIGCONT)
    ends(stopped)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == state
    assert content(out) == unbroken


def test_another_request_is_refused_with_both_values_while_one_is_worked_on(tmp_path, start, unbroken):
    first = start("shard.sample_written:*:15:stop")
    wait_for(lambda: is_stopped(first))
    _, errors = (other := start(samples=12)).communicate(timeout=100)
    assert other.returncode == 1
    assert f"shard_samples of {tmp_path / 'out'}, which process {first.pid} on " in errors
    assert "is making, is 10, but 12 is needed. Give the same to join" in errors
    first.kill()
    ends(start())
    assert content(tmp_path / "out") == unbroken


def test_a_shard_whose_lease_was_lost_meanwhile_is_not_published(tmp_path, start, unbroken):
    """The heir, this process, has not touched the late one's unfinished file yet: nothing but the look at the lease
    before the rename keeps it from appearing."""
    out, leases = tmp_path / "out", Leases(tmp_path / "out" / ".progress" / "leases", 1.0)
    late = start("shard.sample_written:*:15:stop", stale_after_s=1.0)
    wait_for(lambda: is_stopped(late))
    wait_for(lambda: not leases.is_taken("shard-000001"))
    with leases.claim("shard-000001"):
        os.kill(late.pid, signal.SIGCONT)
        wait_for(lambda: len(list((out / ".progress").glob("shard-*.json"))) == PAIRS // SHARD - 1)
        assert not (out / "shard-000001.tar").exists()
        assert list(out.glob("*.partial")) == []
    wait_for(lambda: is_stopped(late))  # at the same place, when it makes the shard anew
    os.kill(late.pid, signal.SIGCONT)
    assert made(ends(late)).count(1) == 2
    assert content(out) == unbroken


def test_a_process_that_comes_while_the_others_finish_takes_their_set(tmp_path, source, start, unbroken, monkeypatch):
    """It has seen them at work, and when it joins them they are gone, and the folder of the leases with them."""
    first = start("shard.sample_written:*:15:stop")
    wait_for(lambda: is_stopped(first))
    joined = []

    def late(leases):
        os.kill(first.pid, signal.SIGCONT)
        ends(first)
        joined.append(leases)
        return joint_work.take_part(leases)

    monkeypatch.setattr(sharding, "take_part", late)
    outcome = shard_source(source, tmp_path / "out", ShardOptions(shard_samples=SHARD, workers=1))
    assert len(joined) == 1
    assert outcome.was_finished
    assert outcome.manifest.samples == PAIRS
    assert content(tmp_path / "out") == unbroken
