"""Leases between real processes: one owner at a time, whoever is killed, stopped or faster."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from seed_dist.data.leases import Leases

ROUNDS = 100
OWNER = """
import sys
from pathlib import Path
from seed_dist.data.leases import Leases
with Leases(Path(sys.argv[1]), float(sys.argv[2])).claim("piece") as lease:
    print("mine", flush=True)
    for _ in sys.stdin:
        print(lease.is_held(), flush=True)
"""


@pytest.fixture
def owner(root, tmp_path):
    """Starts a process that has the lease `piece` and says on every line whether it still does; none outlives the
    test."""
    started = []
    (tmp_path / "leases").mkdir()

    def start(stale_after_s):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path / "leases"), str(stale_after_s)],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def says(process):
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def race(folder, gate, rounds, answers):
    leases, won = Leases(folder), []
    for number in range(rounds):
        gate.wait()
        lease = leases.claim(f"piece-{number}")
        gate.wait()  # the winner still has it while the loser asks
        won.append(lease is not None)
        if lease is not None:
            with lease:
                assert lease.is_held()
    answers.put(won)


def test_of_two_processes_one_gets_each_piece(tmp_path):
    leases = Leases(tmp_path)
    for number in range(0, ROUNDS, 2):  # every other piece had an owner before
        with leases.claim(f"piece-{number}"):
            pass
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(2, timeout=60), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path, gate, ROUNDS, answers)) for _ in range(2)]
    for racer in racers:
        racer.start()
    first, second = answers.get(timeout=120), answers.get(timeout=120)
    for racer in racers:
        racer.join(timeout=30)
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * ROUNDS
    assert {racer.exitcode for racer in racers} == {0}
    assert list(tmp_path.glob("*.partial")) == []


def test_a_killed_owner_loses_its_lease_at_once(tmp_path, owner):
    process = owner(600)
    leases = Leases(tmp_path / "leases", 600)
    assert leases.claim("piece") is None
    assert [(holding.name, holding.owner.process, holding.is_stale) for holding in leases.owners()] == [
        ("piece", process.pid, False)
    ]
    os.kill(process.pid, signal.SIGKILL)
    while process.poll() is None and not leases.owners()[0].is_stale:  # a dead process that nobody waited for counts
        time.sleep(0.01)
    with leases.claim("piece") as lease:
        assert lease.is_held()
        assert leases.was_taken_over("piece")
        assert leases.claim("piece") is None
    assert leases.owners() == []


def test_a_stopped_owner_that_wakes_up_knows_that_it_lost(tmp_path, owner):
    process = owner(0.6)
    leases = Leases(tmp_path / "leases", 0.6)
    time.sleep(1.0)
    assert leases.claim("piece") is None  # it works on something long, but it lives
    assert says(process) == "True"
    os.kill(process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while (lease := leases.claim("piece")) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with lease:
        os.kill(process.pid, signal.SIGCONT)
        assert says(process) == "False"
        time.sleep(0.3)  # its heart beats on
        assert lease.is_held()
        process.stdin.close()
        process.wait(timeout=30)  # and gives back what it no longer has
        assert lease.is_held()
        assert leases.claim("piece") is None


def test_an_owner_elsewhere_is_dead_only_after_its_silence(tmp_path, owner):
    process = owner(600)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    path = tmp_path / "leases" / "piece.0"
    path.write_text(json.dumps({**json.loads(path.read_text()), "system": "another machine"}))
    leases = Leases(tmp_path / "leases", 100)
    assert leases.claim("piece") is None
    os.utime(path, (time.time() - 101,) * 2)
    assert leases.owners()[0].silent_s > 100
    assert leases.claim("piece") is not None


def test_a_process_number_in_use_again_is_another_process(tmp_path):
    leases = Leases(tmp_path)
    lease = leases.claim("piece")
    path = tmp_path / "piece.0"
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "1"}))
    assert leases.claim("piece") is not None
    assert not lease.is_held()


def test_a_lease_comes_back_however_the_block_ends(tmp_path):
    leases = Leases(tmp_path)
    with pytest.raises(InterruptedError), leases.claim("piece"):
        raise InterruptedError
    with leases.claim("piece") as lease:
        assert lease.is_held()


def test_without_its_folder_there_is_nothing_to_claim(tmp_path):
    (tmp_path / "leases").mkdir()
    leases = Leases(tmp_path / "leases")
    with leases.claim("piece") as lease:
        shutil.rmtree(tmp_path / "leases")  # the last worker has finished the whole
        assert not lease.is_held()
        assert leases.claim("other") is None
    assert not (tmp_path / "leases").exists()
