"""The attempts at a run: a numbered folder each, with how it began, how it ended, and what was seen when it died."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.watch.notes import read_json, to_json, write_private
from seed_dist.watch.slurm import own_job

INCIDENTS = "incidents"
CAUSE, PAGE = "cause.json", "cause.txt"
_PREFIX = "attempt-"
_START, _END = "start.json", "end.json"


@dataclass(frozen=True)
class Attempt:
    """One attempt. `outcome`: of the loop (finished, limit, stopped), died, or unknown where nobody could tell.

    `hosts` names each rank's node. Of a death: `kind`, see `causes`, `what` in a sentence, the `rank` that failed first
    and its `host`, `step`, and `saved_step`, the newest checkpoint's then. Times in seconds since 1970.
    """

    number: int
    outcome: str
    kind: str = ""
    step: int | None = None
    saved_step: int = 0
    job: str = ""
    restart: str = ""
    started_s: float = 0.0
    hosts: tuple[str, ...] = ()
    what: str = ""
    rank: int | None = None
    host: str = ""
    died_s: float | None = None


def begin_attempt(run: Path, hosts: list[str]) -> Path:
    """A new folder RUN/incidents/attempt-N; `hosts` names each rank's node. Called by one process."""
    number = 1 + max((number_of(path) for path in attempt_folders(run)), default=0)
    folder = run / INCIDENTS / f"{_PREFIX}{number}"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir()
    job = own_job()
    start = {"time_s": time.time(), "hosts": hosts, "job": job.number, "restart": job.restart}
    write_private(folder / _START, to_json(start))
    return folder


def end_attempt(folder: Path, outcome: str, step: int) -> None:
    """The attempt ended as it should."""
    write_private(folder / _END, to_json({"outcome": outcome, "step": step, "time_s": time.time()}))


def attempt_folders(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / INCIDENTS).glob(f"{_PREFIX}*"), key=number_of)


def number_of(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def start_of(folder: Path) -> dict[str, Any]:
    return {"time_s": 0.0, "hosts": [], "job": "", "restart": ""} | read_json(folder / _START)


def has_ended_well(folder: Path) -> bool:
    return bool(read_json(folder / _END))


def read_attempt(folder: Path) -> Attempt:
    """As the folder has it now: a death is known when its cause was written."""
    start, end, cause = start_of(folder), read_json(folder / _END), read_json(folder / CAUSE)
    outcome = end.get("outcome") or ("died" if cause else "unknown")
    return Attempt(
        number=number_of(folder),
        outcome=str(outcome),
        kind=str(cause.get("kind", "")),
        step=cause.get("step"),
        saved_step=int(cause.get("saved_step", 0)),
        job=str(start["job"]),
        restart=str(start["restart"]),
        started_s=float(start["time_s"]),
        hosts=tuple(str(host) for host in start["hosts"]),
        what=str(cause.get("what", "")),
        rank=cause.get("rank"),
        host=str(cause.get("host", "")),
        died_s=cause.get("time_s"),
    )


def read_attempts(run: Path) -> list[Attempt]:
    """All of them, oldest first."""
    return [read_attempt(folder) for folder in attempt_folders(run)]


def newest_run(work: Path, job: str, restart: str) -> Path | None:
    """Of the runs of a workspace the one whose attempt began last in this job's present life; None without any."""
    runs = [path.parent for path in work.glob(f"*/{INCIDENTS}")]
    last = [(read_attempt(folders[-1]), run) for run in runs if (folders := attempt_folders(run))]
    own = [(attempt.started_s, run) for attempt, run in last if (attempt.job, attempt.restart) == (job, restart)]
    return max(own)[1] if own else None
