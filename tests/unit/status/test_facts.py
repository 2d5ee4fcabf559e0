"""What is said of a run is what its files say, whatever befell it; long journals cost no more than short ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seed_dist.errors import DataError
from seed_dist.fsio import folder_lock
from seed_dist.status.facts import RunReader, find_runs
from seed_dist.status.history import POINTS, Curve, History
from seed_dist.status.page import render
from seed_dist.status.text import status_text
from seed_dist.watch.attempts import begin_attempt, read_attempts
from tests.unit.status.written_run import STEPS, plain, step, write_events, write_many_steps, write_run


def test_the_facts_of_a_run_that_much_befell(tmp_path: Path) -> None:
    run = write_run(tmp_path / "codebook")
    write_events(run, ("start", 0, {"host": "n1", "world_size": 2}), *(step(n) for n in range(1, 9)))
    write_events(run, ("skipped", 5, {}), ("alarm", 6, {"what": "few codes"}), ("checkpoint", 4, {"path": "step_4"}))
    write_events(run, step(9))  # and then it is killed
    write_events(run, ("start", 4, {"host": "n2", "world_size": 4, "slurm_job_id": "77"}))
    write_events(run, *(step(n, loss=10.0 * n) for n in range(5, 8)), ("skipped", 7, {}), step(8, loss=40.0))
    write_events(run, ("validation", 8, {"generation_cosine": 0.5, "seconds": 3.0}))
    write_events(run, ("checkpoint", 8, {"path": "step_8", "seconds": 0.25}), ("stop", 8, {"reason": "SIGUSR1"}))
    reader = RunReader(run)
    facts = plain(reader.facts())
    drawn = [(n, pytest.approx(1 / n, rel=1e-6)) for n in range(1, 5)] + [(5, 50), (6, 60), (7, 70), (8, 40)]
    assert reader.history.curves["loss"].points == drawn  # nothing of the steps that were done again
    assert (facts["state"], facts["alive"], facts["step"], facts["steps"]) == ("stopped", False, 8, STEPS)
    assert facts["figures"]["loss"] == pytest.approx((50 + 60 + 70 + 40) / 4)  # of the present attempt alone
    assert facts["data_wait_share"] == pytest.approx(0.1)
    assert facts["skipped"] == 1  # that of step 5 was done again
    assert (facts["validation"], facts["validation_step"]) == ({"generation_cosine": 0.5}, 8)
    assert (facts["checkpoint"]["path"], facts["checkpoint"]["seconds"]) == ("step_8", 0.25)
    assert [(one["kind"], one["step"]) for one in facts["incidents"]] == [
        ("alarm", 6), ("ended without a word", 9), ("stop", 8)
    ]  # fmt: skip
    assert [(a["hosts"], a["slurm_job"], a["step"]) for a in facts["attempts"]] == [
        (["n1"], None, 0),
        (["n2"], "77", 4),
    ]
    cause = run / "incidents" / "attempt-1" / "cause.json"
    cause.parent.mkdir(parents=True)
    cause.write_text(
        json.dumps({"kind": "oom", "what": "no memory", "rank": 3, "host": "n1", "time_s": 1.0, "step": 9})
    )
    told = plain(RunReader(run).facts())["incidents"]
    assert told[0]["what"] == "oom: no memory (rank 3 on n1)"
    assert [one["kind"] for one in told] == ["death", "alarm", "stop"]  # the journal's "without a word" is that death


def test_a_death_is_told_once_and_one_without_a_cause_is_told_all_the_same(tmp_path: Path) -> None:
    """Attempts: dies, its cause is known; dies while it loads, before its journal begins; dies, and nobody saw why."""
    run = write_run(tmp_path / "codebook")
    for number, is_in_journal, cause in (
        (1, True, {"kind": "killed", "what": "killed by SIGKILL", "rank": 1, "host": "b", "step": 3}),
        (2, False, {"kind": "oom", "what": "no memory", "step": 0}),
        (3, True, None),
    ):
        attempt = begin_attempt(run, ["a", "b"])
        assert attempt.name == f"attempt-{number}"
        if is_in_journal:
            write_events(run, ("start", 2 * (number > 1), {"host": "a"}), step(3), step(4))
        if cause is not None:
            (attempt / "cause.json").write_text(json.dumps({**cause, "time_s": time.time()}))
        time.sleep(1.1)  # which attempt a start in the journal belongs to is told by the clock
    begin_attempt(run, ["c"])
    write_events(run, ("start", 2, {"host": "c"}), step(3))
    facts = RunReader(run).facts()
    assert [(one["kind"], one["what"]) for one in facts.incidents] == [
        ("death", "killed: killed by SIGKILL (rank 1 on b)"),
        ("death", "oom: no memory"),
        ("ended without a word", ""),
    ]
    assert [one["hosts"] for one in facts.attempts] == [["a", "b"], ["a", "b"], ["c"]]
    assert status_text(facts).count("SIGKILL") == 1
    assert [attempt.kind for attempt in read_attempts(run)] == ["killed", "oom", "", ""]  # what the verdict is made of


def test_the_memory_of_nodes_is_what_their_sampler_wrote(tmp_path: Path) -> None:
    run = write_run(tmp_path / "codebook")
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho '1024, 81920, 50'\necho '40960, 81920, 100'\n")
    smi.chmod(0o755)
    write_events(run, ("start", 0, {"host": "n", "world_size": 1}), step(1))
    environment = {**os.environ, "PATH": f"{smi.parent}:{os.environ['PATH']}"}
    with subprocess.Popen(["sleep", "60"]) as followed:
        command = [sys.executable, "-m", "seed_dist.obs.node_sampler", str(run), "--follow", str(followed.pid)]
        with subprocess.Popen(command, env=environment) as sampler:
            deadline_s = time.monotonic() + 60
            while not (nodes := RunReader(run).facts().nodes) and time.monotonic() < deadline_s:
                time.sleep(0.2)
            sampler.kill()
        followed.kill()
    (node,) = nodes
    assert node.host == os.uname().nodename
    assert 0 < node.host_used_bytes < node.host_total_bytes
    assert (node.gpu_used_bytes, node.gpu_total_bytes) == pytest.approx((40 << 30, 80 << 30), rel=1e-6)
    reader = RunReader(run)
    told = status_text(reader.facts())
    assert f"memory of {node.host}" in told
    assert "fullest GPU 40.0 of 80.0 GiB" in told
    assert "fullest GPU 40.0 of 80.0 GiB" in render(reader, reader.facts())
    # Another attempt on other nodes: that one is gone, once a new one has been sampled.
    write_events(run, ("start", 1, {"host": "m", "world_size": 1}))
    with (run / "nodes" / "m.jsonl").open("w") as file:
        memory = {"host_memory_used_bytes": 1 << 30, "host_memory_total_bytes": 4 << 30}
        file.write(json.dumps({"event": "node", "step": 1, "time_s": time.time() + 1, **memory}) + "\n" + '{"event"')
    (node,) = RunReader(run).facts().nodes
    assert (node.host, node.gpu_used_bytes) == ("m", None)


def test_the_time_left_follows_from_the_clock_and_not_from_steps_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "codebook")
    lines = [{"event": "start", "step": 0, "time_s": 100.0, "host": "n"}]
    lines += [{"event": "step", "step": n, "time_s": 100 + 2 * n, "step_s": 0.5, "loss": 1.0} for n in range(1, 101)]
    (run / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert RunReader(run).facts().left_s == pytest.approx(2 * (STEPS - 100))  # half of the time went into other things


def test_a_checkpoint_that_is_told_late_does_not_turn_the_run_back(tmp_path: Path) -> None:
    run = write_run(tmp_path / "codebook")
    write_events(
        run, ("start", 0, {}), *(step(n) for n in range(1, 9)), ("checkpoint", 6, {"path": "step_6", "written_s": 2.5})
    )
    facts = RunReader(run).facts()
    assert facts.step == 8
    assert facts.checkpoint is not None
    assert (facts.checkpoint["step"], facts.checkpoint["seconds"]) == (6, 2.5)
    write_events(run, ("rollback", 6, {"spike_step": 8}))
    assert RunReader(run).facts().step == 6


def test_whether_it_lives(tmp_path: Path) -> None:
    run = write_run(tmp_path / "codebook")
    assert RunReader(run).facts().state == "died"  # nobody is there, and nothing was trained
    write_events(run, ("start", 0, {"host": "n"}), step(1))
    with folder_lock(run, "training of codebook"):
        living = RunReader(run).facts()
    assert (living.state, living.alive) == ("training", True)
    code = "import os, sys; from pathlib import Path; from seed_dist.fsio import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1]), 'training'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(run)], check=False)
    killed = RunReader(run).facts()
    assert killed.state == "died"
    assert "left its lock behind" in killed.why
    write_events(run, ("checkpoint", 1, {}))
    assert RunReader(run).facts().state == "died"  # between a save and the next line
    # The number of the dead process was given to another one, which began later.
    lock = run / ".lock"
    lock.write_text(f"training, process {os.getpid()} on {os.uname().nodename}")
    os.utime(lock, (1e9, 1e9))
    assert RunReader(run).facts().state == "died"
    lock.write_text("training, process 1 on another.host")
    assert RunReader(run).facts().state == "training"  # its last line is new
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"event": "step", "step": 2, "time_s": time.time() - 3600}) + "\n")
    assert RunReader(run).facts().state == "silent"
    lock.write_text("")
    write_events(run, ("finished", 2, {}))
    assert RunReader(run).facts().state == "finished"


def test_a_long_journal_is_thinned_and_read_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_many_steps(path, 200_000)
    began_s = time.process_time()
    history = History(path)
    history.read_on()
    took_s = time.process_time() - began_s
    assert took_s < 2.0, f"{took_s:.2f} s"  # 0.3 s; parsing every line takes some 2 s on the same machine
    loss = history.curves["loss"]
    assert POINTS // 2 < len(loss.points) <= 2 * POINTS + 1
    assert all(y == pytest.approx(x) for x, y in loss.points)  # the loss is the step: no mean mixes up its points
    assert len([e for e in history.events if e["event"] == "checkpoint"]) == 200
    assert history.last is not None
    assert history.last["step"] == 200_000
    with path.open("a") as file:
        file.write(json.dumps({"event": "step", "step": 200_001, "time_s": 1.0, "loss": 1.0}) + '\n{"event": "step"')
    began_s = time.process_time()
    history.read_on()
    assert time.process_time() - began_s < 0.1
    assert history.last["step"] == 200_001
    with path.open("a") as file:  # the line that was being written is whole now
        file.write(', "step": 200002, "time_s": 2.0, "loss": 1.0}\n')
    history.read_on()
    assert history.last["step"] == 200_002


def test_a_curve_forgets_what_is_done_again() -> None:
    curve = Curve()
    for x in range(10_000):
        curve.add(x, x)
    curve.cut(5000)
    assert max(curve.xs) <= 5000
    assert min(curve.xs) < 50


def test_workspaces_and_what_is_none(tmp_path: Path) -> None:
    for name in ("codebook", "codebook.old-1"):
        write_run(tmp_path / name)
    assert find_runs(tmp_path) == [tmp_path / "codebook"]
    assert find_runs(tmp_path / "codebook") == [tmp_path / "codebook"]
    with pytest.raises(DataError, match="neither a run directory nor a workspace"):
        find_runs(tmp_path / "nothing")
    (tmp_path / "codebook" / "run.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        RunReader(tmp_path / "codebook")
