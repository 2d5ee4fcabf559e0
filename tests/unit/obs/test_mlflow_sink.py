"""The journal arrives in MLflow once, however often it is copied; training does not notice when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.config import load_recipe
from seed_dist.obs import mlflow_process
from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.mlflow_process import LOG, copied_to_mlflow
from seed_dist.obs.mlflow_sink import DATABASE, in_batches, points
from seed_dist.obs.provenance import record_run, stage_identity


def test_steps_and_validations_become_points_and_other_events_none() -> None:
    record = {"event": "step", "step": 3, "time_s": 10.5, "loss": 2.0, "grad_norm": None, "name": "x", "flag": True}
    assert list(points(record)) == [("loss", 2.0, 10500, 3)]
    validation = {"event": "validation", "step": 4, "time_s": 11.0, "i2t_r1": 0.5}
    assert list(points(validation)) == [("validation/i2t_r1", 0.5, 11000, 4)]
    assert list(points({"event": "checkpoint", "step": 4, "time_s": 11.0, "seconds": 0.5})) == []


def test_batches_stay_below_what_mlflow_takes_at_once() -> None:
    record = {"event": "step", "step": 1, "time_s": 0.0} | {f"m{i}": float(i) for i in range(100)}
    batches = list(in_batches([record | {"step": step} for step in range(20)]))
    assert [len(batch) for batch in batches] == [9, 9, 2]


@pytest.mark.slow
def test_the_journal_is_copied_once_and_a_second_attempt_joins_the_same_run(tmp_path: Path) -> None:
    identity = stage_identity(load_recipe("glyphs"), "codebook", {"train": "a", "val": "b"})
    record_run(tmp_path, load_recipe("glyphs"), identity, world_size=1)
    for first, last, event in ((0, 3, "stop"), (3, 5, "finished")):
        journal = Journal(tmp_path / JOURNAL)
        journal.write("start", first)
        for step in range(first + 1, last + 1):
            journal.write("step", step, loss=1 / step, lr=0.1)
        journal.write("validation", last, i2t_r1=0.25)
        journal.write(event, last)
        journal.close()
        _copy_twice(tmp_path)
    script = (
        "import json, sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]); "
        "e = c.get_experiment_by_name('codebook'); runs = c.search_runs([e.experiment_id]); r = runs[0]; "
        "print(json.dumps([len(runs), r.info.status, r.data.params['codebook.size'], "
        "[(m.step, m.value) for m in c.get_metric_history(r.info.run_id, 'loss')], "
        "[m.step for m in c.get_metric_history(r.info.run_id, 'validation/i2t_r1')]]))"
    )
    uri = f"sqlite:///{tmp_path / DATABASE}"
    done = subprocess.run([sys.executable, "-c", script, uri], capture_output=True, text=True, check=True, timeout=120)
    runs, status, size, losses, validations = json.loads(done.stdout.splitlines()[-1])
    assert (runs, status, size) == (1, "FINISHED", str(load_recipe("glyphs").codebook.size))
    assert losses == [[step, pytest.approx(1 / step, rel=1e-6)] for step in range(1, 6)]
    assert validations == [3, 5]


def _copy_twice(run: Path) -> None:
    """In one process, because importing MLflow takes seconds; the second time from the position before the first."""
    script = (
        "import sys; from pathlib import Path; from seed_dist.obs.mlflow_sink import MlflowSink;"
        "run = Path(sys.argv[1]);"
        "a = MlflowSink(run); b = MlflowSink(run); n = a.copy_new_records(); assert n > 0;"
        "assert b.copy_new_records() == n; assert a.copy_new_records() == 0; a.close_run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stderr


def test_the_sink_starts_when_asked_and_only_on_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(mlflow_process, "start_sink", lambda run, follow: started.append(follow))
    for when, rank, expected in (("off", 0, []), ("end", 1, []), ("live", 0, [True]), ("end", 0, [False])):
        with copied_to_mlflow(tmp_path, when, rank):  # type: ignore[arg-type]
            assert started == ([True] if when == "live" else [])
        assert started == expected
        started.clear()
    with pytest.raises(RuntimeError), copied_to_mlflow(tmp_path, "end", 0):
        raise RuntimeError
    assert started == [False]  # the curves of a failed training are wanted most


def test_training_goes_on_when_the_sink_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    mlflow_process.start_sink(tmp_path, follow=False)
    assert "not started" in (tmp_path / LOG).read_text()
    assert os.environ["PATH"] == str(tmp_path)
