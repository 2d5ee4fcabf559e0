"""What is started beside a training, and that a training does not notice when it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.obs import mlflow_process, side_process
from seed_dist.obs.destination import VARIABLE
from seed_dist.obs.mlflow_process import LOG, Tracking, copied_to_mlflow

URI = "http://ann:S3cr3t" + "@host:5000"


def test_the_copy_is_started_when_asked_and_only_on_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        mlflow_process,
        "start_side_process",
        lambda module, words, log, environment=None, is_idle=True: started.append(
            f"{module.rpartition('.')[2]}{' follows' * ('--follow' in words)} {(environment or {}).get(VARIABLE, '')}"
        ),
    )
    sampler = "node_sampler follows "
    for when, rank, during, after in (
        ("off", 0, [], []),
        ("end", 1, [sampler], []),
        ("live", 0, [sampler, f"sync follows {URI}"], []),
        ("end", 0, [sampler], [f"sync {URI}"]),
    ):
        with copied_to_mlflow(tmp_path, Tracking(when, URI), rank):  # type: ignore[arg-type]
            assert started == during
        assert started == during + after
        started.clear()
    with pytest.raises(RuntimeError), copied_to_mlflow(tmp_path, Tracking("end"), 0):
        raise RuntimeError
    assert started == [sampler, "sync "]  # the curves of a failed training are wanted most
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    started.clear()
    with copied_to_mlflow(tmp_path, Tracking("end"), 1):
        assert started == []  # one sampler per node


def test_the_address_is_on_no_command_line_and_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[list[str], dict[str, str]]] = []
    process = subprocess.Popen(["true"])
    monkeypatch.setattr(
        side_process.subprocess, "Popen", lambda words, env, **rest: commands.append((words, env)) or process
    )
    mlflow_process.start_sink(tmp_path, URI, follow=True)
    ((words, environment),) = commands
    assert "S3cr3t" not in " ".join(words)
    assert environment[VARIABLE] == URI
    assert "S3cr3t" not in repr(Tracking("live", URI))


def test_training_goes_on_when_nothing_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with copied_to_mlflow(tmp_path, Tracking("end"), 0):
        pass
    assert (tmp_path / LOG).read_text().count("not started") == 2
