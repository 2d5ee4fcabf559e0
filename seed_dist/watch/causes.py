"""The cause of death on one page, from the notes of an attempt: who failed first, where, what is lost, what to do.

Kinds of death:
  killed     a signal from outside                         crash      segmentation fault, abort and the like
  left       the process ended itself too early            gone       one of these, but its parent had asked first
  exception  a Python exception that nobody expected       error      one of seed_dist.errors
  device     the GPU, its driver or NCCL                   oom        no memory left
  hang       no sign of life for too long                  network    ranks lost each other and none of them died
  unknown    nobody left a note: the node went, say
"""

from __future__ import annotations

import json
import signal
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seed_dist.watch.attempts import CAUSE, PAGE, start_of
from seed_dist.watch.notes import DeathNote, ErrorNote, RankState, read_deaths, read_errors, to_json, write_private

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_TRACEBACK_LINES = 30
_TAIL_BYTES = 1 << 20  # of a journal: hundreds of steps
_NEXT = {
    "killed": "Look who sends signals to this job; a requeue goes on from the checkpoint.",
    "crash": "Look at the stack; the same crash at another node is a defect, at the same node perhaps its memory.",
    "left": "Something ended the process without an error, which is a defect: look at the stack and the log.",
    "gone": "Look at the launcher's message for its exit code; a requeue goes on from the checkpoint.",
    "exception": "Read the traceback; the same command goes on from the checkpoint.",
    "error": "Do what the message says, then run the same command again.",
    "device": "Requeue; if the same node fails again, exclude it (sbatch --exclude=HOST) and tell its owner.",
    "oom": "Ask for more memory (sbatch --mem), or for a smaller micro-batch (accumulation); one try may be chance.",
    "hang": "Read the stack of that rank; if it was reading, look at that disk.",
    "network": "Requeue; if it happens again, look at the nodes' network (interface, cable, NCCL settings).",
    "unknown": "Ask the batch system what happened to the node; a requeue goes on from the checkpoint.",
}


@dataclass(frozen=True)
class Cause:
    """Why an attempt died. `step` is the steps done by then; `saved_step` the newest checkpoint's."""

    kind: str
    what: str  # one sentence
    rank: int | None = None
    host: str = ""
    time_s: float = 0.0
    phase: str = ""
    step: int | None = None
    detail: str = ""
    samples: tuple[int, ...] = ()
    evidence: str = ""  # traceback or stack
    exit_code: int | None = None
    secondary: tuple[int, ...] = ()  # ranks that ended because of it
    silent_hosts: tuple[str, ...] = ()  # nodes of which no word came
    saved_step: int = 0
    lost_minutes: float = 0.0
    batch_state: str = ""


def find_cause(attempt: Path) -> Cause:
    """Whoever failed first, by evidence: a rank's own death or exception, before a hang, before lost connections."""
    errors, deaths = read_errors(attempt), read_deaths(attempt)
    # (time, cause): the first of the first group that is not empty.
    groups = (_own_failures(errors, deaths, attempt), _hangs(deaths, attempt), _lost(errors))
    first = next((min(group, key=lambda found: found[0])[1] for group in groups if group), None)
    hosts: list[str] = start_of(attempt)["hosts"]
    noted = {note.host for note in deaths}
    silent = tuple(sorted(set(hosts) - noted))
    if first is None:
        first = Cause("unknown", "no rank left a note")
    if first.kind in ("network", "unknown") and silent and deaths:
        first = replace(first, what=f"{first.what}; from {', '.join(silent)} no word came at all")
    ended = {note.rank for note in errors} | {state.rank for note in deaths for state in note.ranks if state.died_s}
    others = tuple(sorted(ended - {first.rank}))
    return _with_losses(replace(first, secondary=others, silent_hosts=silent), attempt)


Dated = list[tuple[float, Cause]]


def _own_failures(errors: list[ErrorNote], deaths: list[DeathNote], attempt: Path) -> Dated:
    found: Dated = []
    states = {state.rank: state for note in deaths for state in note.ranks}
    for error in errors:
        if error.kind != "lost":
            found.append((error.time_s, _of_error(error, states.get(error.rank))))
    spoke = {error.rank for error in errors}
    for note in deaths:
        for state in note.ranks:
            unannounced = state.died_s is not None and state.phase != "end"
            if unannounced and state.rank not in spoke and state.rank not in note.killed:
                found.append((state.died_s or 0.0, _of_death(state, note, attempt)))
    return found


def _hangs(deaths: list[DeathNote], attempt: Path) -> Dated:
    """In order of where they hang, not of when it was noticed: the others hang because they wait for the first one."""
    found: Dated = []
    everybody = [state for note in deaths for state in note.ranks]
    for note in deaths:
        for state in note.ranks:
            if note.why == "hung" and state.rank == note.suspect:
                how = "stopped by a signal" if state.is_stopped else f"in phase {state.phase}"
                what = f"no sign of life for {state.age_s:.0f} s, {how}{_different_places(everybody)}"
                place = (0.0 if state.is_stopped else 1e9 if state.waits_for_others else 1e6) + state.step
                cause = _of_state("hang", what, state, note.host)
                found.append((place, replace(cause, time_s=note.time_s, evidence=_stack(attempt, state.rank))))
    return found


def _different_places(states: list[RankState]) -> str:
    """Said when all wait for each other in collectives, and not in the same ones."""
    places: dict[tuple[int, str], list[int]] = {}
    for state in states:
        places.setdefault((state.step, state.phase), []).append(state.rank)
    if len(places) == 1 or not all(state.waits_for_others for state in states):
        return ""
    where = "; ".join(
        f"{_ranks(tuple(ranks))} in {phase} after {step} steps" for (step, phase), ranks in places.items()
    )
    return f": all wait for each other, but in different places ({where}), so one has left out a collective"


def _lost(errors: list[ErrorNote]) -> Dated:
    found: Dated = []
    for error in errors:
        cause = replace(_of_error(error, None), kind="network", what="the ranks lost each other and none of them died")
        found.append((error.time_s, cause))
    return found


def _of_error(error: ErrorNote, state: RankState | None) -> Cause:
    return Cause(
        kind=error.kind,
        what=_sentence(error),
        rank=error.rank,
        host=error.host,
        time_s=error.time_s,
        phase=error.phase,
        step=error.step,
        detail=state.detail if state else "",
        samples=state.samples if state else (),
        evidence=error.traceback,
        exit_code=error.exit_code,
    )


def _sentence(error: ErrorNote) -> str:
    """The first line of a message; all of it where the message is what helps."""
    lines = error.message.strip().splitlines()
    return " ".join(line.strip() for line in lines) if error.is_expected else lines[0]


def _of_state(kind: str, what: str, state: RankState, host: str) -> Cause:
    return Cause(
        kind=kind,
        what=what,
        rank=state.rank,
        host=host,
        time_s=state.died_s or 0.0,
        phase=state.phase,
        step=state.step,
        detail=state.detail,
        samples=state.samples,
        exit_code=state.exit_code,
    )


def _of_death(state: RankState, note: DeathNote, attempt: Path) -> Cause:
    stack = _stack(attempt, state.rank)
    if state.signal is not None:
        name = signal.Signals(state.signal).name
        kind, what = "crash" if state.signal in _CRASHES else "killed", f"killed by {name}"
    elif "Fatal Python error" in stack:
        kind, what = "crash", next(line for line in stack.splitlines() if "Fatal Python error" in line)
    elif state.exit_code is not None:
        kind, what = "left", f"left in the middle of the run with exit code {state.exit_code}"
    else:
        kind, what = "gone", "ended without a word (SIGKILL, or the process left by itself)"
    if note.oom_kill and kind in ("killed", "gone"):
        kind, what = "oom", f"{what}, and the kernel counts one more process killed for memory"
    return replace(_of_state(kind, what, state, note.host), evidence=stack)


def _stack(attempt: Path, rank: int) -> str:
    path = attempt / f"rank_{rank:05d}.stack"
    return path.read_text(errors="replace") if path.is_file() else ""


def _with_losses(cause: Cause, attempt: Path) -> Cause:
    """What has to be done again: steps since the newest checkpoint, and the minutes that they took."""
    run = attempt.parent.parent
    saved = _saved_step(run)
    step = cause.step
    if step is None or step < saved:  # a rank that died before it had loaded the checkpoint
        return replace(cause, saved_step=saved)
    seconds = [float(r["step_s"]) for r in _journal_tail(run) if r.get("event") == "step" and r.get("step_s")]
    minutes = (step - saved) * statistics.median(seconds) / 60 if seconds else 0.0
    return replace(cause, saved_step=saved, lost_minutes=round(minutes, 2))


def _saved_step(run: Path) -> int:
    try:
        return int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step_"))
    except (OSError, ValueError):
        return 0


def _journal_tail(run: Path) -> list[dict[str, Any]]:
    try:
        with (run / "journal.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the first, cut off, or one that the crash cut off
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def write_page(attempt: Path, cause: Cause) -> str:
    """Write cause.json and cause.txt in the attempt's folder; the value is the page."""
    page = page_of(attempt, cause)
    write_private(attempt / PAGE, page)
    write_private(attempt / CAUSE, to_json(asdict(cause)))
    return page


def page_of(attempt: Path, cause: Cause) -> str:
    """The page as text of at most some fifty lines."""
    run = attempt.parent.parent
    who = "-" if cause.rank is None else f"{cause.rank} on {cause.host}"
    lost = "" if cause.step is None else f"{max(0, cause.step - cause.saved_step)} steps, {cause.lost_minutes:g} min"
    rows = {
        "cause": f"{cause.kind}: {cause.what}",
        "first to fail": f"rank {who}" if cause.rank is not None else "not known",
        "phase": f"{cause.phase} {cause.detail}".strip(),
        "steps done": "" if cause.step is None else str(cause.step),
        "samples": ", ".join(map(str, cause.samples[:16])) + (" ..." if len(cause.samples) > 16 else ""),
        "ended with it": _ranks(cause.secondary),
        "no word from": ", ".join(cause.silent_hosts),
        "batch system": cause.batch_state,
        "checkpoint": f"{run / 'checkpoints'}: {cause.saved_step} steps" if cause.saved_step else "none yet",
        "work lost": lost,
        "next": _NEXT[cause.kind],
        "more": str(attempt),
    }
    lines = [f"== {run.name}, {attempt.name}: the run died =="]
    lines += [f"{name + ':':15}{text}" for name, text in rows.items() if text]
    if cause.evidence and cause.kind != "error":  # an expected error says what to do; its traceback is in CAUSE
        lines += ["", *cause.evidence.rstrip().splitlines()[-_TRACEBACK_LINES:]]
    return "\n".join(lines) + "\n"


def _ranks(ranks: tuple[int, ...]) -> str:
    if not ranks:
        return ""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}"
