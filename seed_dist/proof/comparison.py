"""Two runs of one configuration compared, step by step and bit by bit: what is equal, and where they first part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seed_dist.obs.journal import JOURNAL, Record, parse_journal

# What another world size may change: sums are made in another order.
LOSS_TOLERANCE = 1e-5
_EVENTS = ("step", "validation", "skipped")
_NO_FIGURE = ("event", "step", "seconds")


@dataclass(frozen=True)
class Difference:
    """The first value that differs, in the order of the training."""

    step: int
    what: str
    straight: object
    resumed: object

    def __str__(self) -> str:
        return f"step {self.step}, {self.what}: {self.straight} in the straight run, {self.resumed} in the other"


@dataclass
class Compared:
    """How much was found equal, and the first difference if there is one."""

    difference: Difference | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        if number:
            self.counts[what] = self.counts.get(what, 0) + number


def compare_runs(straight: Path, other: Path, last_step: int, same_world: bool) -> Compared:
    """Compare two run directories: journals, and with `same_world` the checkpoints of the last step too.

    At another world size only samples and losses are compared, those within `LOSS_TOLERANCE`.
    """
    found = Compared()
    differences = _journals(straight / JOURNAL, other / JOURNAL, last_step, found, same_world)
    found.difference = next(differences, None)
    if found.difference is None and same_world:
        final = Path("checkpoints", f"step_{last_step:08d}")
        found.difference = next(_checkpoints(straight / final, other / final, last_step, found), None)
    return found


def figures(record: Record) -> dict[str, Any]:
    """What a record says about the training. Units stand in the names, so times and sizes are told apart by them."""
    return {
        name: value for name, value in record.items() if name not in _NO_FIGURE and not name.endswith(("_s", "_bytes"))
    }


def _journals(straight: Path, other: Path, last_step: int, found: Compared, exact: bool) -> Iterator[Difference]:
    """Every record of the other run, those of steps that it did twice included, against the straight run's."""
    expected = {(record["event"], record["step"]): record for record in _records(straight)}
    records = sorted(_records(other), key=lambda record: _place(record["event"], record["step"]))
    for record in records:
        event, step = record["event"], record["step"]
        if (event, step) not in expected:
            yield Difference(step, f"event {event}", "absent", "present")
            continue
        wanted, got = figures(expected[event, step]), figures(record)
        names = _compared_names(event, wanted, got, exact)
        for name in names:
            if not _is_same(name, wanted.get(name), got.get(name), exact):
                yield Difference(step, name, wanted.get(name), got.get(name))
        found.count(f"{event} records", bool(names))
    done = {(record["event"], record["step"]) for record in records}
    for event, step in sorted(expected.keys() - done, key=lambda item: _place(*item)):
        yield Difference(step, f"event {event}", "present", "absent")
    for step in range(1, last_step + 1):
        if ("step", step) not in expected:
            yield Difference(step, "event step", "absent", "absent")


def _place(event: str, step: int) -> tuple[int, int]:
    return step, _EVENTS.index(event)


def _records(journal: Path) -> list[Record]:
    text = journal.read_text(encoding="utf-8", errors="replace") if journal.is_file() else ""
    return [record for record in parse_journal(text) if record["event"] in _EVENTS]


def _compared_names(event: str, wanted: Record, got: Record, exact: bool) -> list[str]:
    """The samples first: where they differ, everything after them does."""
    names = sorted(wanted.keys() | got.keys(), key=lambda name: (name != "samples_digest", name != "loss", name))
    return names if exact else [name for name in names if event == "step" and name in ("samples_digest", "loss")]


def _is_same(name: str, wanted: object, got: object, exact: bool) -> bool:
    if exact or name != "loss" or not (isinstance(wanted, float) and isinstance(got, float)):
        return wanted == got
    return math.isclose(wanted, got, rel_tol=LOSS_TOLERANCE)


def _checkpoints(straight: Path, other: Path, step: int, found: Compared) -> Iterator[Difference]:
    """Counters, then every tensor of every file by its bits."""
    for folder, which in ((straight, "straight"), (other, "other")):
        if not folder.is_dir():
            yield Difference(step, f"checkpoint of the {which} run", folder.name, "absent")
            return
    wanted, got = (json.loads((folder / "state.json").read_text()) for folder in (straight, other))
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            yield Difference(step, name, wanted.get(name), got.get(name))
        found.count("counters")
    files = [{path.name for path in folder.glob("*.safetensors")} for folder in (straight, other)]
    if files[0] != files[1]:
        yield Difference(step, "files of the checkpoint", sorted(files[0]), sorted(files[1]))
    for name in sorted(files[0] & files[1]):
        yield from _tensors(straight / name, other / name, step, found)


def _tensors(straight: Path, other: Path, step: int, found: Compared) -> Iterator[Difference]:
    import torch
    from safetensors import safe_open

    with safe_open(straight, "pt") as wanted, safe_open(other, "pt") as got:
        if set(wanted.keys()) != set(got.keys()):
            yield Difference(step, f"tensors of {straight.name}", sorted(wanted.keys()), sorted(got.keys()))
            return
        for name in sorted(wanted.keys()):
            a, b = wanted.get_tensor(name).reshape(-1), got.get_tensor(name).reshape(-1)
            if a.shape != b.shape or a.dtype != b.dtype:
                yield Difference(step, f"{straight.name}: {name}", f"{a.dtype} {a.shape}", f"{b.dtype} {b.shape}")
            elif not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):  # by bits: NaN is equal to itself
                unequal = (a != b).nonzero().reshape(-1)
                at = int(unequal[0]) if len(unequal) else 0
                what = f"{straight.name}: {name}, number {at} (the first of {len(unequal)} of {len(a)})"
                yield Difference(step, what, a[at].item(), b[at].item())
            found.count("tensors")
            found.count("numbers", len(a))
