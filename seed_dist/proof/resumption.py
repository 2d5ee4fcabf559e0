"""The same few steps undisturbed, and killed and stopped at drawn places: run, and compared."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.errors import SeedDistError
from seed_dist.obs.journal import JOURNAL, parse_journal
from seed_dist.proof.comparison import Compared, compare_runs
from seed_dist.proof.ranks import start_training
from seed_dist.proof.trial import Trial

_LOG = logging.getLogger("seed_dist")
_KILL_POINTS = ("train.before_step", "train.before_advance", "checkpoint.file_written")
_LOOK_S, _TELL_EVERY_S = 0.5, 10.0
LEAST_STEPS = 8


class ProofError(SeedDistError):
    """A run of the proof ended otherwise than it had to."""

    exit_code = 3


@dataclass(frozen=True)
class Part:
    """One start of the command: on how many ranks, and which end was planned for it."""

    ranks: int
    fault: str = ""  # see `seed_dist.faults`; nothing: it runs to the last step

    @property
    def described(self) -> str:
        point, rank, step, action = self.fault.split(":") if self.fault else ("", "", "", "")
        names = {"kill": "kill -9", "term": "SIGTERM", "": "to the end"}
        return f"{self.ranks} rank(s), {names[action]}" + (f" of rank {rank} in step {step} at {point}" if rank else "")


@dataclass(frozen=True)
class Proof:
    """What was run and found."""

    parts: dict[str, list[Part]]  # name of the run -> its starts
    bitwise: Compared
    elastic: Compared | None = None
    control: Compared | None = None  # two undisturbed runs, where the disturbed one differed
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(found is None or found.difference is None for found in (self.bitwise, self.elastic))

    def as_dict(self) -> dict[str, Any]:
        """For the certificate."""
        runs = {name: [part.described for part in parts] for name, parts in self.parts.items()}
        kinds = {"bitwise": self.bitwise, "elastic": self.elastic, "undisturbed_twice": self.control}
        found = {
            name: {"first_difference": compared.difference and str(compared.difference), "equal": compared.counts}
            for name, compared in kinds.items()
            if compared is not None
        }
        return {"passed": self.passed, "runs": runs, "seconds": round(self.seconds, 1), **found}


def planned_parts(trial: Trial, ranks: Sequence[int], seed: int) -> list[Part]:
    """Killed behind the first checkpoint, stopped behind that, then run to the end; places are drawn from `seed`."""
    rng, every = random.Random(f"{seed} {trial.stage} {tuple(ranks)}"), trial.save_every
    sizes = [ranks[number % len(ranks)] for number in range(3)]
    point = rng.choice(_KILL_POINTS)
    # A save happens when the step is done, so it belongs to a step that is a multiple.
    killed = 2 * every if point.startswith("checkpoint") else rng.randint(every + 1, 2 * every)
    stopped = rng.randint(2 * every + 1, trial.steps - 2)
    kill = f"{point}:{rng.randrange(sizes[0])}:{killed}:kill"
    stop = f"train.before_step:{rng.randrange(sizes[1])}:{stopped}:term"
    return [Part(sizes[0], kill), Part(sizes[1], stop), Part(sizes[2])]


def prove(trial: Trial, ranks: Sequence[int], seed: int) -> Proof:
    """Run the trial straight and disturbed on `ranks[0]` ranks, and, where more world sizes are named, disturbed with
    every part on the next of them. ProofError when a run ends otherwise than planned.
    """
    began_s = time.monotonic()
    parts = {"straight": [Part(ranks[0])], "resumed": planned_parts(trial, ranks[:1], seed)}
    if len(ranks) > 1:
        parts["elastic"] = planned_parts(trial, ranks, seed)
    folders = {name: _run(trial, name, starts) for name, starts in parts.items()}
    bitwise = compare_runs(folders["straight"], folders["resumed"], trial.steps, same_world=True)
    elastic, control = None, None
    if "elastic" in folders:
        elastic = compare_runs(folders["straight"], folders["elastic"], trial.steps, same_world=False)
    if bitwise.difference is not None:
        again = _run(trial, "again", parts["straight"])
        control = compare_runs(folders["straight"], again, trial.steps, same_world=True)
    proof = Proof(parts, bitwise, elastic, control, time.monotonic() - began_s)
    if proof.passed:
        for name in parts:  # of a failed proof they are kept to be looked at
            shutil.rmtree(trial.folder / name)
    return proof


def _run(trial: Trial, name: str, parts: Sequence[Part]) -> Path:
    """All starts of one run, one after the other; the value is its run directory."""
    workspace = trial.workspace(name)
    folder = workspace / trial.stage
    for number, part in enumerate(parts, 1):
        _LOG.info("%s, %s run, start %d of %d: %s", trial.stage, name, number, len(parts), part.described)
        log = trial.folder / f"{name}-{number}.log"
        process = start_training(trial.arguments(workspace), part.ranks, log, part.fault)
        try:
            code = _wait(process, folder / JOURNAL, trial.steps)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # of the launcher, which ends its ranks
                process.wait()
        _check_end(part, code, folder / JOURNAL, trial.steps, log)
    return folder


def _wait(process: Any, journal: Path, steps: int) -> int:
    told_s = time.monotonic()
    while process.poll() is None:
        time.sleep(_LOOK_S)
        if time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            _LOG.info("  step %d of %d", last_step(journal), steps)
    return int(process.returncode)


def last_step(journal: Path) -> int:
    """The last step that is in a journal."""
    return max((record["step"] for record in _journal(journal) if record["event"] == "step"), default=0)


def _journal(path: Path) -> list[dict[str, Any]]:
    return parse_journal(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []


def _check_end(part: Part, code: int, journal: Path, steps: int, log: Path) -> None:
    """ProofError unless the start ended as planned."""
    records = _journal(journal)
    action = part.fault.rpartition(":")[2]
    is_stopped = bool(records) and records[-1]["event"] == "stop"
    as_planned = {
        "": code == 0 and last_step(journal) == steps,
        "kill": code != 0 and not is_stopped and last_step(journal) < steps,
        "term": code != 0 and is_stopped,
    }
    if not as_planned[action]:
        raise ProofError(
            f"a start on {part.described} ended with exit code {code} at step {last_step(journal)} of {steps}, which "
            f"was not the plan. {log} says:\n{_cause(log)}"
        )


def _cause(log: Path) -> str:
    """The first error in a log; launchers write much behind it."""
    lines = log.read_text(errors="replace").splitlines()
    first = next((at for at, line in enumerate(lines) if line.startswith(("Traceback", "error:"))), len(lines) - 20)
    return "\n".join(lines[max(0, first) :][:40])
