"""What befell a run and which attempts it took: its journal and its watchdogs' notes (`seed_dist.watch`) told as one.

Both tell of a death. The journal has it without a word, when the next attempt begins; the watchdog knows the cause.
Where there is a cause, that is the one that is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from seed_dist.obs.journal import Record
from seed_dist.status.history import DIED, History
from seed_dist.watch.attempts import Attempt

_CLOCK_S = 1.0  # the watchdog's clock can be set, the journal's cannot
# What events mean, in words; others are shown with all that they carry.
_MEANING = {
    "stop": "asked to stop by {reason}",
    "alarm": "{what}",
    "checkpoint_failed": "a save failed: {reason}",
    "rollback": "back from step {spike_step}, where the loss had a spike",
    "spike": "the loss has a spike, and there was no checkpoint to go back to",
}


def incidents(history: History, watched: Sequence[Attempt]) -> list[dict[str, Any]]:
    """time_s, step, kind and what of each, in order of time; every death once."""
    found = [_incident(record) for record in _untold(history, watched)]
    found += [_death(attempt) for attempt in watched if attempt.outcome == "died"]
    return sorted(found, key=lambda one: one["time_s"] or 0.0)


def attempts(history: History, watched: Sequence[Attempt]) -> list[dict[str, Any]]:
    """step, time_s, world_size, hosts and slurm_job of each start in the journal. Hosts of all ranks are known where a
    watchdog wrote them down.
    """
    return [_attempt(record, _of_start(record, watched)) for record in history.starts]


def _untold(history: History, watched: Sequence[Attempt]) -> Iterator[Record]:
    """Incidents of the journal without the deaths whose cause is known."""
    present: Attempt | None = None
    told = {id(record) for record in history.incidents}
    for record in history.events:
        if record["event"] == "start":
            present = _of_start(record, watched)
        has_cause = record["event"] == DIED and present is not None and present.outcome == "died"
        if id(record) in told and not has_cause:
            yield record


def _of_start(record: Record, watched: Sequence[Attempt]) -> Attempt | None:
    """A watchdog starts before the model is built and the journal after it: the newest that is not later."""
    before = [attempt for attempt in watched if attempt.started_s <= float(record["time_s"]) + _CLOCK_S]
    return max(before, key=lambda attempt: (attempt.started_s, attempt.number), default=None)


def _death(attempt: Attempt) -> dict[str, Any]:
    who = f" (rank {attempt.rank} on {attempt.host})" if attempt.rank is not None else ""
    what = f"{attempt.kind}: {attempt.what}{who}"
    return {"time_s": attempt.died_s, "step": attempt.step, "kind": "death", "what": what}


def _attempt(record: Record, watched: Attempt | None) -> dict[str, Any]:
    hosts = dict.fromkeys(watched.hosts if watched else ()) or (record.get("host"),)
    return {
        "step": record["step"],
        "time_s": record["time_s"],
        "world_size": record.get("world_size"),
        "hosts": [str(host) for host in hosts],
        "slurm_job": record.get("slurm_job_id") or (watched.job if watched else "") or None,
    }


def _incident(record: Record) -> dict[str, Any]:
    others = {name: value for name, value in record.items() if name not in ("event", "step", "time_s")}
    meaning = _MEANING.get(record["event"])
    if record["event"] == "rollback" and "collapse_step" in record:
        meaning = "back from step {collapse_step}, where the codebook had collapsed"
    if record["event"] == "stop" and record.get("reason") is None:
        meaning = "asked to stop by a signal to another rank"
    listed = ", ".join(f"{name} {value}" for name, value in others.items())
    what = meaning.format_map(defaultdict(lambda: "?", others)) if meaning else listed
    return {"time_s": record.get("time_s"), "step": record["step"], "kind": record["event"], "what": what}
