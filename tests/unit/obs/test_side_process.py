"""Side processes take only what nobody else wants, and deliver all the same: real processes, asked of the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from seed_dist.fsio import folder_lock
from seed_dist.obs.followed import Followed
from seed_dist.obs.live_page_process import kept_live_page
from seed_dist.obs.mlflow_process import Tracking, copied_to_mlflow, start_sink
from seed_dist.obs.side_process import give_way, start_side_process
from seed_dist.status.page import PAGE
from tests.harness import TIMEOUT_S
from tests.unit.status.written_run import step, write_events, write_run

BUSY = "while True: pass"
CLAIM = """
import os, sys
from pathlib import Path
from seed_dist.obs.side_process import stop_giving_way
sys.stdin.readline()
stop_giving_way()
print(os.sched_getscheduler(0), Path("/proc/self/autogroup").read_text().split()[-1], flush=True)
"""
AUTOGROUP = Path("/proc/self/autogroup")
by_sessions = pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel does not share by sessions")


def trained(folder: Path) -> Path:
    run = write_run(folder / "codebook")
    write_events(run, ("start", 0, {"host": "a", "world_size": 2}), *(step(n) for n in range(1, 5)))
    return run


def side_processes() -> dict[str, psutil.Process]:
    """Children of this one that are `python -m MODULE`, by module; others are of other tests."""
    commands = {child: child.cmdline() for child in psutil.Process().children()}
    return {command[2]: child for child, command in commands.items() if command[1:2] == ["-m"]}


def policies(process: psutil.Process) -> set[int]:
    """Of all its threads."""
    return {os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{process.pid}/task").iterdir()}


def test_all_of_them_run_in_idle_time_only(tmp_path: Path) -> None:
    run = trained(tmp_path)
    with (
        folder_lock(run, "training"),
        copied_to_mlflow(run, Tracking("live", f"sqlite:///{tmp_path / 'm.db'}"), 0),
        kept_live_page(run, True, 0),
    ):
        found = side_processes()
        assert set(found) == {"seed_dist.obs.node_sampler", "seed_dist.sync", "seed_dist.status"}
        for process in found.values():
            assert policies(process) == {os.SCHED_IDLE}, process
            assert process.nice() == 19
            assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
            if AUTOGROUP.exists():
                assert Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1] == "19"
        for name in ("seed_dist.obs.node_sampler", "seed_dist.sync"):
            found[name].kill()


def test_what_starts_when_training_is_over_need_not_wait_for_idle_time(tmp_path: Path) -> None:
    start_sink(trained(tmp_path), f"sqlite:///{tmp_path / 'm.db'}", follow=False)
    process = side_processes()["seed_dist.sync"]
    try:
        assert policies(process) == {os.SCHED_OTHER}
        assert process.nice() == 19
    finally:
        process.kill()


def test_where_the_policy_is_refused_they_are_nice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(psutil.Process, "ionice", refuse)
    started = start_side_process("http.server", ["0", "--bind", "127.0.0.1"], tmp_path / "log")
    assert started is not None
    assert os.sched_getscheduler(started.pid) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, started.pid) == 19
    started.kill()
    started.wait()


@by_sessions
def test_a_busy_one_leaves_the_processor_to_a_rank() -> None:
    """Both want the same processor all the time, each in a session of its own."""
    core = {min(os.sched_getaffinity(0))}
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(2)]
    try:
        for one in busy:
            os.sched_setaffinity(one.pid, core)
        give_way(busy[1].pid)
        rank, side = (psutil.Process(one.pid) for one in busy)
        before = rank.cpu_times().user, side.cpu_times().user
        deadline_s = time.monotonic() + TIMEOUT_S
        while rank.cpu_times().user - before[0] < 1.0 and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert rank.cpu_times().user - before[0] >= 1.0
        assert side.cpu_times().user - before[1] < 0.1
    finally:
        for one in busy:
            one.kill()
            one.wait()


@by_sessions
def test_when_it_has_to_deliver_it_claims_its_share_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        give_way(started.pid)
        assert os.sched_getscheduler(started.pid) == os.SCHED_IDLE
        out, _ = started.communicate("now\n", timeout=60)
    policy, niceness = out.split()
    assert niceness == "0"
    assert int(policy) == os.SCHED_OTHER or os.geteuid() != 0


def test_a_page_that_gets_no_processor_is_written_by_another(tmp_path: Path) -> None:
    run = trained(tmp_path)
    with folder_lock(run, "training"):
        with kept_live_page(run, True, 0):
            starved = side_processes()["seed_dist.status"]
            os.kill(starved.pid, signal.SIGSTOP)
            write_events(run, step(5), ("stop", 5, {"reason": "SIGTERM"}))
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (run / PAGE).exists() and time.monotonic() < deadline_s:
            time.sleep(0.1)
    assert ": stopped, step 5" in (run / PAGE).read_text()
    assert not psutil.pid_exists(starved.pid) or starved.status() == psutil.STATUS_ZOMBIE


def test_one_that_follows_is_woken_and_does_not_look() -> None:
    with subprocess.Popen(["sleep", "600"]) as training:
        followed = Followed(training.pid)
        assert followed.lives()
        readable, written = os.pipe()
        os.write(written, b"x")
        assert followed.wait(60, readable) == [readable]
        assert followed.wait(0.01) == []
        began_s, used_s = time.monotonic(), time.process_time()
        training.kill()
        assert followed.wait(60) == []
        assert not followed.lives()  # a zombie, which nobody has waited for
        assert time.monotonic() - began_s < 30
        assert time.process_time() - used_s < 0.5
    assert not Followed(training.pid).lives()
