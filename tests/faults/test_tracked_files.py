"""Cards and reports lie in MLflow beside the figures: each once, the newest, whatever happened in between.

In a sqlite file that several runs share, and in a real `mlflow server`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed_dist.config import load_recipe
from seed_dist.errors import TrackingError
from seed_dist.fsio import write_text
from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.provenance import attempt, record_run, stage_identity
from tests.harness import ROOT
from tests.tracking_server import TrackingServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CARDS = {
    "images/train/README.md": "# train",
    "images/val/README.md": "# val",
    "model_card.md": "# SEED",
    "report.html": "<html>",
    "report.json": "{}",
    "codebook/export/README.md": "# codebook",
    "codebook/export/config.json": "{}",
    "codebook/export/model.safetensors": "heavy",
    "codebook/README.txt": "nothing of ours",
}
THERE = {
    "images/train/README.md", "images/val/README.md", "model_card.md", "report.html", "report.json",
    "export/README.md", "export/config.json", "run.json",
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'shared.db'}"
        return
    server = TrackingServer(folder)
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


def workspace(folder: Path, seed: int) -> Path:
    """A workspace with cards, and in it a finished run, whose folder is the value."""
    recipe, run = load_recipe("glyphs", [f"seed={seed}"]), folder / "codebook"
    record_run(run, recipe, stage_identity(recipe, "codebook", {"train": "aa", "val": "bb"}), world_size=1)
    for name, text in CARDS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    journal = Journal(run / JOURNAL)
    journal.write("start", 0, **attempt())
    journal.write("step", 1, loss=1.0)
    journal.write("finished", 1)
    journal.close()
    return run


def sink(run: Path, uri: str) -> Any:
    from seed_dist.obs.mlflow_sink import MlflowSink

    return MlflowSink(run, uri)


def in_mlflow(uri: str, seed: int, to: Path) -> dict[str, str]:
    """Every file of the one run with this seed, as MLflow gives it back."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("seed_dist/codebook")
    (found,) = client.search_runs([experiment.experiment_id], f"params.seed = '{seed}'")
    to.mkdir()
    client.download_artifacts(found.info.run_id, "", str(to))
    return {path.relative_to(to).as_posix(): path.read_text() for path in to.rglob("*") if path.is_file()}


def test_cards_and_reports_are_sent_once_and_replaced_when_they_change(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    sent: list[str] = []
    log = MlflowClient.log_artifact

    def counted(client: Any, run: str, path: str, folder: str | None = None) -> None:
        sent.append(Path(path).name)
        log(client, run, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", counted)
    run = workspace(tmp_path / "a", 1)
    training = sink(run, uri)
    training.copy(True)
    assert sorted(sent) == ["README.md", "README.md", "run.json"]  # the report may be of an earlier training
    training.copy(False)
    first = in_mlflow(uri, 1, tmp_path / "first")
    assert set(first) == THERE
    assert all(first[name] == CARDS[name] for name in ("model_card.md", "images/train/README.md"))
    assert len(sent) == len(THERE)
    training.copy(False)
    sink(run, uri).copy(False)  # another process, which knows what MLflow says alone
    assert len(sent) == len(THERE)
    write_text(tmp_path / "a" / "model_card.md", "# SED")
    write_text(tmp_path / "a" / "images/val/README.md", "# val, with a licence")
    sink(run, uri).copy(False)
    assert sent[len(THERE) :] == ["README.md", "model_card.md"]
    changed = in_mlflow(uri, 1, tmp_path / "second")
    assert set(changed) == THERE
    assert changed["model_card.md"] == "# SED"
    assert changed["images/val/README.md"] == "# val, with a licence"


def test_a_file_whose_note_was_lost_lies_there_once(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    run = workspace(tmp_path / "a", 2)
    log = MlflowClient.log_artifact

    def then_cut_off(client: Any, number: str, path: str, folder: str | None = None) -> None:
        log(client, number, path, folder)
        if path.endswith("model_card.md"):
            raise ConnectionError("cut off")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifact", then_cut_off)
        with pytest.raises(TrackingError, match="cut off"):
            sink(run, uri).copy(False)
    assert "report.html" not in in_mlflow(uri, 2, tmp_path / "first")
    sink(run, uri).copy(False)
    assert set(in_mlflow(uri, 2, tmp_path / "second")) == THERE


def test_the_command_sends_them(uri: str, tmp_path: Path) -> None:
    """Two workspaces into one store: each run has its own cards. Run twice, and run from elsewhere."""
    runs = [workspace(tmp_path / name, seed) for seed, name in ((3, "a"), (4, "b"))]
    write_text(tmp_path / "b" / "model_card.md", "# another")
    command = [sys.executable, "-m", "seed_dist.sync", *map(str, runs), "--to", uri]
    for _ in range(2):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "0 records sent, all is there" in done.stderr
    for seed, card in ((3, "# SEED"), (4, "# another")):
        there = in_mlflow(uri, seed, tmp_path / str(seed))
        assert set(there) == THERE
        assert there["model_card.md"] == card
    assert not (tmp_path / "mlruns").exists()
