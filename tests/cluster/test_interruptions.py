"""Whatever ends a training's job before its time: the job is queued again once, or not at all where nobody wants it,
and ends with what an undisturbed run ends with, to the last bit. `sbatch slurm/lora.sbatch`, as users submit it (and as
the drill does, with another `--stage`: whose steps they are makes no difference here, and some stages start faster).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.cluster.cluster import ENDED, Cluster, Job, restored, wait_until
from tests.cluster.training import SLOW, Training, assert_same_end

pytestmark = [pytest.mark.timeout(900)]
STEPS = 12


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The undisturbed run that all others are compared with."""
    work = tmp_path_factory.mktemp("straight")
    training = Training(work, STEPS, validate_every=6)
    training.run_undisturbed(tmp_path_factory.mktemp("scratch"))
    return training


@pytest.fixture
def training(straight: Training, tmp_path: Path) -> Training:
    """A run of the same workspace that has not begun."""
    return straight.copy(tmp_path / "work")


def finish(job: Job, training: Training, straight: Training, restarts: int) -> None:
    assert job.wait_for(*ENDED, timeout_s=400) == "COMPLETED", job.log
    assert job.restarts == restarts, job.log
    assert len(training.events("start")) == restarts + 1
    assert_same_end(straight, training)


def ranks(cluster: Cluster, job: Job, *nodes: str) -> list[int]:
    """Processes of the training itself."""
    return [number for number in job.processes(*nodes) if b"seed_dist.train" in _command(number).split(b"\0")[:3]]


def _command(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def test_preempted_jobs_save_and_go_on_where_they_were(
    cluster: Cluster, training: Training, straight: Training
) -> None:
    with restored(cluster):
        job = training.submit(cluster)
        training.wait_for_step(3, job)
        urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--wrap=srun sleep 1")
        assert urgent.wait_for(*ENDED) == "COMPLETED"
        finish(job, training, straight, restarts=1)
        (stop,) = training.events("stop")
        assert training.events("start")[1]["source"].endswith(f"step_{stop['step']:08d}"), "no step is done twice"
        assert stop["step"] > 3


@pytest.mark.cluster
def test_a_node_that_falls_silent_is_replaced(cluster: Cluster, training: Training, straight: Training) -> None:
    """No packet says that it is gone: the others wait in a collective until SLURM misses the node."""
    with restored(cluster):
        job = training.submit(cluster)
        training.wait_for_step(4, job)
        assert job.facts()["NodeList"] == "node[1-2]"
        cluster.nodes["node2"].link("down")
        wait_until(lambda: job.restarts == 1, 180, job.facts)
        job.wait_for("RUNNING")
        assert job.facts()["NodeList"] == "node[1,3]"
        assert ranks(cluster, job, "node2"), "cut off, and nobody can tell it to end"
        finish(job, training, straight, restarts=1)
        cluster.nodes["node2"].link("up")
        wait_until(lambda: not job.processes(), 120, job.processes)


@pytest.mark.cluster
def test_without_a_controller_the_job_goes_on_and_is_requeued_when_it_is_back(
    cluster: Cluster, training: Training, straight: Training
) -> None:
    """Meanwhile a node is drained: the job stays on it while it runs, and is not put on it again."""
    with restored(cluster):
        job = training.submit(cluster)
        training.wait_for_step(3, job)
        cluster.drain("node1")
        cluster.kill_controller()
        log = cluster.folder / f"job-{job.number}.log"
        before = training.newest_step()
        wait_until(lambda: training.newest_step() > before, 60, log.read_text)
        os.kill(ranks(cluster, job, "node2")[0], signal.SIGTERM)
        wait_until(lambda: "is not requeued yet" in log.read_text(), 60, log.read_text)
        cluster.start_controller()
        wait_until(lambda: job.restarts == 1, 180, job.facts)
        job.wait_for("RUNNING")
        assert job.facts()["NodeList"] == "node[2-3]"
        finish(job, training, straight, restarts=1)


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, training: Training) -> None:
    with restored(cluster):
        job = training.submit(cluster)
        training.wait_for_step(4, job)
        job.cancel()
        job.wait_for("CANCELLED")
        wait_until(lambda: not job.processes(), 60, job.processes)
        (stop,) = training.events("stop")
        assert training.saved_steps() == [3, stop["step"]]
        time.sleep(8)  # longer than a requeued job waits
        assert (job.state, job.restarts) == ("CANCELLED", 0), job.log


@pytest.mark.cluster
def test_signals_at_any_moment_cost_one_requeue_each(cluster: Cluster, training: Training, straight: Training) -> None:
    """In the first step; while a checkpoint is written; in validation; on all ranks twice in a row. In MLflow it stays
    one run, which has every step once."""
    faults = (
        SLOW,
        "train.before_step:1:0:term",
        "checkpoint.file_written:0:3:term",
        "train.validate:1:6:term",
        "train.before_step:*:6:term,train.before_advance:*:6:term",
    )
    database = f"sqlite:///{training.work}/tracking.db"
    with restored(cluster):
        words = ("--mlflow", "live", "--mlflow-uri", database)
        job = training.submit(cluster, words=words, SEED_DIST_FAULT=",".join(faults))
        finish(job, training, straight, restarts=4)
        assert [stop["step"] for stop in training.events("stop")] == [1, 4, 6, 7]
        assert [record["step"] for record in training.events("validation")] == [0, 6, 12], "one is cut short and redone"
    by_the_job = [run.info.run_id for run in tracked_runs(database)]
    cluster.run("python", "-m", "seed_dist.sync", training.folder, "--to", database)  # what it had no time for
    (run,) = tracked_runs(database)
    assert by_the_job == [run.info.run_id]
    history = MlflowClient(database).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(e["step"], e["loss"]) for e in training.events("step")]
    assert [point.step for point in history] == list(range(1, STEPS + 1))


def tracked_runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


@pytest.mark.cluster
def test_a_crash_loop_stops_with_its_cause(cluster: Cluster, training: Training) -> None:
    with restored(cluster):
        job = training.submit(cluster, SEED_DIST_FAULT=f"{SLOW},train.before_step:1:4:raise")
        assert job.wait_for(*ENDED) == "FAILED", job.log
        assert "verdict: stop (3 deaths at step 4 and no progress: exception)" in job.log
        assert "first to fail: rank 1 on node2" in job.log
        assert [start["step"] for start in training.events("start")] == [0, 3, 3]
        assert "InjectedFaultError: fault injected at train.before_step" in job.log
        time.sleep(8)  # longer than a requeued job waits
        assert (job.state, job.restarts) == ("FAILED", 2)


@pytest.mark.cluster
def test_nobody_notices_a_slurmd_that_is_started_again_nor_a_short_break_of_a_link(
    cluster: Cluster, training: Training, straight: Training
) -> None:
    """As systemd does it. Ranks do not need it; the batch script and srun come to their end through the new one."""
    with restored(cluster):
        job = training.submit(cluster)
        training.wait_for_step(1, job)
        for name in ("node1", "node2"):
            cluster.nodes[name].kill("slurmd")
            cluster.nodes[name].start()
        training.wait_for_step(2, job)
        cluster.nodes["node2"].link("down")
        time.sleep(4)
        assert training.newest_step() < STEPS, "it was over before the break"
        cluster.nodes["node2"].link("up")
        finish(job, training, straight, restarts=0)


@pytest.mark.cluster
def test_a_node_whose_slurmd_stays_dead_is_replaced(cluster: Cluster, training: Training, straight: Training) -> None:
    """Its ranks compute, but SLURM cannot know it, and ends the others of the job."""
    with restored(cluster):
        job = training.submit(cluster, SEED_DIST_FAULT=f"{SLOW},{SLOW},{SLOW}")
        training.wait_for_step(4, job)
        cluster.nodes["node2"].kill("slurmd")
        wait_until(lambda: job.restarts == 1, 180, job.facts)
        job.wait_for("RUNNING")
        assert job.facts()["NodeList"] == "node[1,3]"
        finish(job, training, straight, restarts=1)
        assert not job.processes("node2"), "what nobody could end has ended by itself, without its peers"


@pytest.mark.cluster
def test_a_link_that_breaks_before_the_ranks_start(cluster: Cluster, training: Training, straight: Training) -> None:
    with restored(cluster):
        gate, held = cluster.folder / "gate.sh", cluster.folder / "held"
        held.touch()
        gate.write_text(f'while [ -e {held} ] && [ -z "${{SLURM_STEP_ID:-}}" ]; do sleep 0.1; done\n')
        job = training.submit(cluster, "--nodelist=node1,node2", BASH_ENV=str(gate))
        job.wait_for("RUNNING")
        cluster.nodes["node2"].link("down")
        held.unlink()
        job.wait_for_log("verdict:", timeout_s=120)
        assert "verdict: requeue (ended from outside)" in job.log, job.log
        cluster.nodes["node2"].link("up")
        assert job.wait_for(*ENDED, timeout_s=400) == "COMPLETED", job.log
        # SLURM may end the next attempt's ranks when it tells node2 at last that the first one's are to end.
        assert job.restarts in (1, 2), job.log
        assert_same_end(straight, training)


@pytest.mark.cluster
def test_time_limits_are_met_again_and_again(cluster: Cluster, tmp_path: Path) -> None:
    """Without the script's `--signal` (CONT does nothing): the ranks ask how much time is left."""
    steps = 57  # of two seconds each, and an attempt has not even 40 of its 60 seconds for them: at least four attempts
    alone = Training(tmp_path / "alone", steps, stage="lora")
    cut = alone.copy(tmp_path / "cut")
    alone.run_undisturbed(tmp_path)
    with restored(cluster):
        job = cut.submit(cluster, "--time=1", "--signal=CONT@1", SEED_DIST_FAULT=f"{SLOW},{SLOW}")
        assert job.wait_for(*ENDED, timeout_s=500) == "COMPLETED", job.log
        stops = cut.events("stop")
        assert len(stops) >= 3
        assert {stop["reason"] for stop in stops} == {"time limit"}
        assert job.restarts == len(stops) == len(cut.events("start")) - 1
        assert_same_end(alone, cut)
        assert job.processes() == []
    shutil.rmtree(tmp_path / "alone")


@pytest.mark.cluster
def test_a_port_that_is_taken_is_passed_over(cluster: Cluster, training: Training, straight: Training) -> None:
    with restored(cluster):
        job = training.submit(cluster, "--hold", "--nodelist=node1,node2", SEED_DIST_FAULT="")
        port = 15000 + int(job.number) % 10000
        program = "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1]))); time.sleep(600)"
        cluster.nodes["node1"].place.start(
            "python3", "-c", program, str(port), log=cluster.folder / "listener.log", env=cluster.environment
        )
        cluster.run("scontrol", "release", job.number)
        finish(job, training, straight, restarts=0)
        cluster.nodes["node1"].kill("python3")
