"""The facts about a run, as plain values: what the terminal, the page and scripts are told alike."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.errors import DataError
from seed_dist.obs.journal import JOURNAL
from seed_dist.status.history import History, figures, saving_s
from seed_dist.status.incidents import attempts, incidents
from seed_dist.status.liveness import Life, look
from seed_dist.status.nodes import NodeMemory, node_memory
from seed_dist.status.reference import Comparison, compare
from seed_dist.watch.attempts import read_attempts

RUN = "run.json"
_EXPORT = "export"
_MEAN_OF = 20  # logged steps: what is shown of a noisy figure is their mean


@dataclass(frozen=True)
class Facts:
    """One run. `state`: training, finished, stopped (will go on when started again), died, or silent (elsewhere).

    `figures` are means over the last logged steps; `validation` is the last one's. Durations in seconds, times in
    seconds since 1970; None where it is not known.
    """

    run: str
    stage: str
    state: str
    why: str
    alive: bool | None
    step: int
    steps: int
    left_s: float | None
    silent_s: float | None
    figures: dict[str, float]
    validation: dict[str, float]
    validation_step: int | None
    data_wait_share: float | None
    skipped: int
    memory_bytes: int | None  # peak of the training's processes, where the demo measured it
    nodes: list[NodeMemory]
    checkpoint: dict[str, Any] | None  # step, path, age_s, seconds
    incidents: list[dict[str, Any]]  # time_s, step, kind, what
    attempts: list[dict[str, Any]]  # step, time_s, hosts, world_size, slurm_job
    reference: Comparison  # with what reference runs of the recipe did
    age_s: float  # since the run began

    def as_dict(self) -> dict[str, Any]:
        """For scripts: all but the reference runs' own curves, with what is said of them in words."""
        values = dataclasses.asdict(self)
        del values["reference"]["bands"]
        values["reference"]["words"] = self.reference.words()
        return values


class RunReader:
    """A run directory, read again and again. DataError where it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = read_record(folder)
        self.history = History(folder / JOURNAL)

    @property
    def stage(self) -> str:
        return str(self.record["stage"])

    @property
    def training(self) -> Mapping[str, Any]:
        section: Mapping[str, Any] = self.record["recipe"][f"{self.stage}_training"]
        return section

    @property
    def samples(self) -> dict[str, int]:
        """Of each split that it trains on, as far as the journal was read."""
        told = [record for record in self.history.events if record["event"] == "data"]
        splits: Mapping[str, Any] = told[-1].get("splits", {}) if told else {}
        return {name: int(part["samples"]) for name, part in splits.items()}

    def facts(self, has_ended: bool = False) -> Facts:
        """As things are now. `has_ended`: the training says so, though its process may still be there."""
        history, now = self.history, time.time()
        history.read_on()
        watched = read_attempts(self.folder)
        silent_s = now - float(history.last["time_s"]) if history.last else None
        usual_s = self._seconds_per("line")
        life = Life(False, "its process is ending") if has_ended else look(self.folder, silent_s, usual_s)
        # A checkpoint that was written in the background is told of when training is some steps further.
        told = [*history.recent, history.last] if history.last else []
        step, steps = max((int(record["step"]) for record in told), default=0), int(self.training["steps"])
        per_step_s = self._seconds_per("step")
        last = (list(history.recent) or history.earlier)[-_MEAN_OF:]
        names = dict.fromkeys(name for record in last for name in figures(record))
        means = {name: statistics.fmean(v for r in last if (v := figures(r).get(name)) is not None) for name in names}
        return Facts(
            run=str(self.folder),
            stage=self.stage,
            state=(state := self._state(life)),
            why=life.why,
            alive=life.alive,
            step=step,
            steps=steps,
            left_s=per_step_s * (steps - step) if per_step_s is not None and state != "finished" else None,
            silent_s=silent_s,
            figures=means,
            validation=figures(history.validation) if history.validation else {},
            validation_step=history.validation["step"] if history.validation else None,
            data_wait_share=_share(means.get("data_wait_s"), means.get("step_s")),
            skipped=len(history.skipped_steps),
            memory_bytes=_read_json(self.folder.parent / "peak_memory_bytes.json").get(f"train_{self.stage}"),
            nodes=node_memory(self.folder, float(history.starts[-1]["time_s"]) if history.starts else 0.0),
            checkpoint=self._checkpoint(now),
            incidents=incidents(history, watched),
            attempts=attempts(history, watched),
            reference=compare(self.record, self.samples, history.curves),
            age_s=now - float(history.events[0]["time_s"]) if history.events else 0.0,
        )

    def _state(self, life: Life) -> str:
        if self._last_word() == "finished" or (self.folder / _EXPORT).is_dir():
            return "finished"
        if life.alive:
            return "training"
        if self._last_word() == "stop" or (self._ended_at_a_limit() and not life.was_killed):
            return "stopped"
        return "died" if life.alive is False else "silent"

    def _last_word(self) -> str:
        """The last event that begins or ends an attempt."""
        words = ("start", "stop", "finished")
        return next((e["event"] for e in reversed(self.history.events) if e["event"] in words), "")

    def _ended_at_a_limit(self) -> bool:
        """`--steps` ends an attempt with a save and no further word."""
        return self.history.last is not None and self.history.last["event"] == "checkpoint"

    def _seconds_per(self, what: str) -> float | None:
        """Of a step, or between two lines of steps, over the last ones; saves and validations are part of it."""
        recent = self.history.recent
        if len(recent) < 2:
            return None
        spent_s = float(recent[-1]["time_s"]) - float(recent[0]["time_s"])
        steps = recent[-1]["step"] - recent[0]["step"] if what == "step" else len(recent) - 1
        return spent_s / steps if steps > 0 else None

    def _checkpoint(self, now: float) -> dict[str, Any] | None:
        record = self.history.checkpoint
        if record is None:
            return None
        return {
            "step": record["step"],
            "path": record.get("path"),
            "age_s": now - float(record["time_s"]),
            "seconds": saving_s(record),
        }


def find_runs(path: Path) -> list[Path]:
    """The run directory itself, or all stages of a workspace in the order in which they were begun. DataError."""
    if (path / RUN).is_file():
        return [path]
    stages = [folder.parent for folder in path.glob(f"*/{RUN}") if ".old-" not in folder.parent.name]
    if not stages:
        raise DataError(
            f"{path} is neither a run directory nor a workspace that has some: there is no {path / RUN} and no "
            f"{path / '*' / RUN}. Give WORK/STAGE or WORK of a training."
        )
    return sorted(stages, key=lambda folder: str(_read_json(folder / RUN).get("started")))


def read_record(folder: Path) -> dict[str, Any]:
    """run.json. DataError where it is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN).read_text())
        record["recipe"][f"{record['stage']}_training"]["steps"], record["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RUN} cannot be read ({error!r}). Give the folder of a run, WORK/STAGE.") from None
    return record


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _read_json(path: Path) -> dict[str, Any]:
    """{} for a file that is absent or was cut off."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
