"""Copies a run's journal into `RUN/mlflow.db`: `python -m seed_dist.obs.mlflow_sink RUN [--follow PID]`.

The only file that imports mlflow, and always in a process of its own: MLflow's client can block for minutes, and
importing it and creating its database cost many seconds of processor time. Training only appends to the journal. Look
at the result with

    mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db

One run directory is one MLflow run, whatever the number of attempts. How much of the journal is copied already is noted
in the run itself, after each batch; a batch that was sent but not noted is sent again and makes no duplicates, because
key, step, time and value are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.errors import DataError
from seed_dist.fsio import folder_lock
from seed_dist.obs.journal import JOURNAL, Record, parse_journal, without_replaced
from seed_dist.obs.provenance import RUN

DATABASE = "mlflow.db"
_POSITION_TAG = "journal_bytes"
_BATCH_METRICS = 900  # MLflow takes at most 1000 per call
_POLL_S = 10.0
_LONGEST_PARAMETER = 500  # characters that every MLflow version accepts
_NO_METRIC = ("event", "step", "time_s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m seed_dist.obs.mlflow_sink", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="run directory, for example runs/demo/codebook")
    parser.add_argument("--follow", type=int, metavar="PID", help="go on until that process has ended")
    args = parser.parse_args()
    if not (args.run / RUN).is_file():
        raise DataError(f"{args.run} is no run directory: it has no {RUN}. Give WORK/STAGE of a training.")
    with folder_lock(args.run / ".mlflow", "MLflow sink"):
        sink = MlflowSink(args.run)
        while args.follow is not None and _is_alive(args.follow):
            sink.copy_new_records()
            time.sleep(_POLL_S)
        sink.copy_new_records()
        sink.close_run()


class MlflowSink:
    """An MLflow run in the run directory's own sqlite file."""

    def __init__(self, run: Path) -> None:
        _silence()
        from mlflow import MlflowClient

        self._journal = run / JOURNAL
        self._finished = False
        record = json.loads((run / RUN).read_text())
        self._client = MlflowClient(tracking_uri=f"sqlite:///{run.resolve() / DATABASE}")
        experiment = self._client.get_experiment_by_name(record["stage"])
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(record["stage"])
        existing = self._client.search_runs([experiment_id], f"tags.run_fingerprint = '{record['fingerprint']}'")
        if existing:
            self._id, self._position = existing[0].info.run_id, int(existing[0].data.tags.get(_POSITION_TAG, 0))
            return
        tags = {
            "run_fingerprint": record["fingerprint"],
            _POSITION_TAG: "0",
            "git_revision": str(record["git"]["revision"]),
        }
        self._id = self._client.create_run(experiment_id, tags=tags, run_name=record["stage"]).info.run_id
        self._position = 0
        self._log_parameters(record["identity"])

    def copy_new_records(self) -> int:
        """Copy what was appended to the journal since the noted position; the value is the number of records."""
        with self._journal.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]  # a line that is still being written waits for the next time
        records = without_replaced(parse_journal(complete.decode("utf-8", errors="replace")))
        for batch in in_batches(records):
            self._client.log_batch(
                self._id, metrics=[self._metric(*point) for record in batch for point in points(record)]
            )
        self._finished = self._finished or any(record["event"] == "finished" for record in records)
        self._position += len(complete)
        self._client.set_tag(self._id, _POSITION_TAG, str(self._position))
        return len(records)

    def close_run(self) -> None:
        """Finished stages are FINISHED; others are KILLED and open again when training goes on."""
        self._client.set_terminated(self._id, "FINISHED" if self._finished else "KILLED")

    def _metric(self, name: str, value: float, time_ms: int, step: int) -> Any:
        from mlflow.entities import Metric

        return Metric(name, value, time_ms, step)

    def _log_parameters(self, identity: dict[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)[:_LONGEST_PARAMETER]) for name, value in identity.items()]
        for start in range(0, len(parameters), 100):  # MLflow's limit per call
            self._client.log_batch(self._id, params=parameters[start : start + 100])


def points(record: Record) -> Iterator[tuple[str, float, int, int]]:
    """The metrics of one record as (name, value, milliseconds since 1970, step); validation figures get a prefix."""
    if record["event"] not in ("step", "validation", "skipped"):
        return
    prefix = "" if record["event"] == "step" else f"{record['event']}/"
    time_ms = int(float(record.get("time_s", 0)) * 1000)
    for name, value in record.items():
        if name not in _NO_METRIC and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value), time_ms, int(record["step"])


def in_batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records in groups of as many metrics as MLflow takes at once."""
    batch: list[Record] = []
    count = 0
    for record in records:
        size = sum(1 for _ in points(record))
        if batch and count + size > _BATCH_METRICS:
            yield batch
            batch, count = [], 0
        batch.append(record)
        count += size
    if batch:
        yield batch


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _silence() -> None:
    """No telemetry, no migration log lines."""
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(run_command(main))
