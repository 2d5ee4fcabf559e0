"""A training as one run in MLflow, whatever the number of attempts, machines and copies.

The only file that imports mlflow, and only the command `seed_dist.sync` imports this file, always in a process of its
own: MLflow's client can block for minutes, and importing it costs seconds. Training only appends to the journal.

**One run.** It is found by its tags, nothing is kept locally: `journal_key` is the fingerprint of what is trained with
that of the journal's first line, which tells when and where the first attempt began, so that two users with equal
recipes have two runs, and a run directory that was moved or copied to another machine keeps its own.

**Every point once, in order.** What is settled (see `obs.settled`) is sent in batches. Each carries the new value of
the tag `journal_copied`, the number of records with their digest. After any failure that tag is read again; a batch
that came through while its tag did not is sent again and makes no duplicates, because MLflow's databases have key,
time, step and value of a point as their primary key.

**Gone back from.** Points cannot be deleted. When training goes back behind what was sent, the old run is moved to
MLflow's trash (`mlflow runs restore` brings it back) and all that is still true is sent to a new one.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from seed_dist.errors import DataError, TrackingError
from seed_dist.fsio import fingerprint
from seed_dist.obs.destination import files_beside, with_secrets_apart
from seed_dist.obs.journal import JOURNAL, Record, parse_journal
from seed_dist.obs.node_sampler import NODES
from seed_dist.obs.provenance import RUN
from seed_dist.obs.run_files import RunFiles
from seed_dist.obs.settled import SettledJournal, complete_lines, in_batches, points
from seed_dist.redaction import redact

# The client's own defaults are 120 s and 7 retries; retrying is up to the caller, who waits as long as it takes.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LONGEST_PARAMETER = 500  # characters that every MLflow version accepts
_LONGEST_TAG = 4000
_PARAMETERS = 100  # MLflow's limit per call
_ON_SERVERS_DISK, _THROUGH_SERVER = ("", "file"), "mlflow-artifacts"  # schemes of places for files
_LOG = logging.getLogger("seed_dist")


class MlflowSink:
    """The run of one run directory at one address. `copy` may be called again at any time, whatever happened before."""

    def __init__(self, run: Path, uri: str) -> None:
        for name, value in _CLIENT.items():
            os.environ.setdefault(name, value)
        for library in ("alembic", "mlflow", "urllib3"):
            logging.getLogger(library).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        self._folder = run
        self._record = json.loads((run / RUN).read_text())
        self._journal = SettledJournal(run / JOURNAL)
        self._files, self._files_beside, self._has_server = RunFiles(run), files_beside(uri), uri.startswith("http")
        self._client = MlflowClient(tracking_uri=with_secrets_apart(uri))
        self._run: Any = None  # as MLflow describes it; None: to be looked up
        self._sent = 0

    def copy(self, is_training: bool) -> int:
        """Send what is settled and not there yet; the value is the number of journal records sent.

        Raises TrackingError when that was not possible now, DataError when MLflow has more than this journal or
        the folder is gone.
        """
        if not (self._folder / RUN).is_file():
            raise DataError(f"{self._folder} is gone or was renamed; copy it from where it is now.")
        self._journal.read()
        if self._journal.identity is None:
            return 0
        try:
            generation = self._journal.generation
            if self._run is None or int(self._run.data.tags["journal_generation"]) != generation:
                self._run, self._sent = self._found_or_created()
            before = self._sent
            self._describe()
            self._send_journal()
            for path in sorted((self._folder / NODES).glob("*.jsonl")):
                self._send_node(path)
            self._send_files(is_training)
            self._set_status("RUNNING" if is_training else "FINISHED" if self._journal.is_finished else "KILLED")
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - a client, a server or a disk in whatever state
            self._run = None
            text = redact(str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise TrackingError(f"{self._folder} is not complete in MLflow: {text}") from None
        return self._sent - before

    def _found_or_created(self) -> tuple[Any, int]:
        """The run of this journal with the number of records that it has."""
        experiment, key = self._experiment(), fingerprint([self._record["fingerprint"], self._journal.identity])
        found, journal = None, self._journal
        for run in self._client.search_runs([experiment], f"tags.journal_key = '{key}'", order_by=["start_time ASC"]):
            generation, count, digest = run.data.tags["journal_copied"].split()
            sent = int(count)
            if int(generation) < journal.generation:
                self._client.delete_run(run.info.run_id)
            elif int(generation) > journal.generation or sent > len(journal.settled):
                raise DataError(
                    f"MLflow has {sent} records of this run, {self._folder / JOURNAL} only {len(journal.settled)}. "
                    "This is an older copy; send the newest one."
                )
            elif digest == journal.digest(sent) and (found is None or sent > found[1]):
                found = run, sent
            elif sent == 0:  # made by a request that seemed to have failed
                self._client.delete_run(run.info.run_id)
        if found is not None:
            return found
        began_ms = int(float(journal.attempts[0].get("time_s", 0)) * 1000) if journal.attempts else None
        tags = {"journal_key": key, "journal_generation": str(journal.generation), "journal_copied": self._position(0)}
        name = f"{self._folder.resolve().parent.name}/{self._folder.resolve().name}"
        run = self._client.create_run(experiment, start_time=began_ms, tags=tags, run_name=name)
        return run, 0

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", f"seed_dist/{self._record['stage']}")
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        place = self._files_beside.as_uri() if self._files_beside else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _position(self, count: int) -> str:
        return f"{self._journal.generation} {count} {self._journal.digest(count)}"

    def _send_journal(self) -> None:
        for batch in in_batches(self._journal.settled[self._sent :]):
            count = self._sent + len(batch)
            self._send([point for record in batch for point in points(record)], "journal_copied", self._position(count))
            self._sent = count

    def _send_node(self, path: Path) -> None:
        """What the sampler of one node has written, from the noted byte on."""
        tag = f"node_copied.{path.stem}"
        text, end = complete_lines(path, int(self._run.data.tags.get(tag, 0)))
        batches = list(in_batches(parse_journal(text.decode("utf-8", errors="replace"))))
        for number, batch in enumerate(batches, 1):
            named = [(f"{name[:4]}/{path.stem}{name[4:]}", *rest) for one in batch for name, *rest in points(one)]
            # The position is noted with the last batch: the others are few, and make no duplicates when sent again.
            self._send(named, tag if number == len(batches) else None, str(end))

    def _send(self, values: list[Any], tag: str | None, position: str) -> None:
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(name, value, time_ms, step) for name, value, time_ms, step in values]
        tags = [RunTag(tag, position)] if tag else []
        self._client.log_batch(self._run.info.run_id, metrics=metrics, tags=tags, synchronous=True)
        self._run.data.tags.update({item.key: item.value for item in tags})

    def _describe(self) -> None:
        """Parameters once; tags as far as they changed."""
        from mlflow.entities import Param, RunTag

        known, run = self._run.data, self._run.info.run_id
        parameters = {name: str(value)[:_LONGEST_PARAMETER] for name, value in self._record["identity"].items()}
        missing = [Param(name, value) for name, value in parameters.items() if name not in known.params]
        for start in range(0, len(missing), _PARAMETERS):
            self._client.log_batch(run, params=missing[start : start + _PARAMETERS], synchronous=True)
            known.params.update({item.key: item.value for item in missing[start : start + _PARAMETERS]})
        tags = {name: redact(value)[:_LONGEST_TAG] for name, value in _tags(self._record, self._journal).items()}
        changed = [RunTag(name, value) for name, value in tags.items() if known.tags.get(name) != value]
        for start in range(0, len(changed), _PARAMETERS):
            self._client.log_batch(run, tags=changed[start : start + _PARAMETERS], synchronous=True)
        known.tags.update(tags)

    def _send_files(self, is_training: bool) -> None:
        """As far as they are there and have changed. What was sent is noted after each, in the tag `files`: when
        that note does not come through the file is sent again, into the same place.
        """
        if not self._takes_files():
            return
        sent = json.loads(self._run.data.tags.get("files", "{}"))
        for file in self._files.changed(dict(sent), is_training):
            self._client.log_artifact(self._run.info.run_id, str(file.path), file.name.rpartition("/")[0] or None)
            sent[file.name] = file.digest
            self._send([], "files", json.dumps(sent, sort_keys=True, separators=(",", ":")))

    def _takes_files(self) -> bool:
        """Whether this machine can write where the files of this run belong."""
        scheme = urlsplit(self._run.info.artifact_uri).scheme
        if scheme in _ON_SERVERS_DISK:
            return self._files_beside is not None  # otherwise it is a folder of the server's machine
        return self._has_server or scheme != _THROUGH_SERVER

    def _set_status(self, status: str) -> None:
        """Finished stages are FINISHED; others are KILLED and open again when training goes on."""
        info, last = self._run.info, self._journal.last
        if info.status == status:
            return
        ended_ms = int(float(last.get("time_s", 0)) * 1000) if last and status != "RUNNING" else None
        if status == "RUNNING":
            self._client.update_run(info.run_id, status=status)
        else:
            self._client.set_terminated(info.run_id, status, end_time=ended_ms)
        info._status = status


def _tags(record: Record, journal: SettledJournal) -> dict[str, str]:
    stage, recipe = record["stage"], str(record["recipe"].get("name"))
    jobs, hosts = ([str(one[name]) for one in journal.attempts if one.get(name)] for name in ("slurm_job_id", "host"))
    card = f"Stage {stage} of recipe {recipe}, trained by seed-dist since {record['started']}."
    tags = {
        "run_fingerprint": record["fingerprint"],
        "recipe": recipe,
        "git_revision": str(record["git"]["revision"]),
        "git_dirty": str(record["git"]["dirty"]),
        "mlflow.source.name": record["command"],
        "mlflow.note.content": card,
        "attempts": str(len(journal.attempts)),
        "slurm_job_ids": " ".join(dict.fromkeys(jobs)),
        "hosts": " ".join(dict.fromkeys(hosts)),
    }
    return tags | {f"manifest.{name}": str(value) for name, value in record["parents"].items()}
