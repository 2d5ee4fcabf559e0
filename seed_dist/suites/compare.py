"""Whether two receipts differ by more than which examples happened to be in the set: paired bootstrap.

Both met the same draws of the same examples (`metrics/bootstrap.py`), so the differences of their resampled figures are
those of pairs. Receipts of other sets, protocols or draws are refused: their difference would mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seed_dist.errors import DataError, MismatchError
from seed_dist.metrics.bootstrap import interval
from seed_dist.suites.receipt import RECEIPT, RESAMPLED
from seed_dist.suites.records import flat

_SAME = "Measure both with the same options on the same set."
Entry = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """B minus A of one figure. `share`: of resamples in which the difference has the sign that it has over all examples
    (1.0: in all of them). `low`, `high`: 95 % interval.
    """

    label: str
    name: str
    a: float
    b: float
    low: float
    high: float
    share: float

    @property
    def value(self) -> float:
        return self.b - self.a


def compare(a: Path, b: Path) -> list[Difference]:
    """All figures that both have. MismatchError names what differs of sets, protocols or draws."""
    first, second = _receipt(a), _receipt(b)
    _require_same("the bootstrap", first["bootstrap"], second["bootstrap"], b)
    ours, theirs = ({_label(entry): entry for entry in one["measurements"]} for one in (first, second))
    both = [label for label in ours if label in theirs]
    if not both:
        raise MismatchError(f"what {b} measured", sorted(theirs), sorted(ours), _SAME)
    found: list[Difference] = []
    for label in both:
        for part in ("set", "protocol"):
            _require_same(f"{part} of {label}", ours[label][part], theirs[label][part], b)
        found += _differences(label, (a, ours[label]), (b, theirs[label]))
    return found


def text(differences: Sequence[Difference], a: Path, b: Path) -> str:
    """A table for the terminal."""
    rows = [("figure", "A", "B", "B - A", "95 %", "same sign")]
    rows += [
        (
            f"{d.label} {d.name}",
            f"{d.a:.4f}",
            f"{d.b:.4f}",
            f"{d.value:+.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}",
            f"{d.share:.3f}",
        )
        for d in differences
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"A {a}", f"B {b}", *lines])


def _receipt(folder: Path) -> dict[str, Any]:
    path = folder if folder.name == RECEIPT else folder / RECEIPT
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give the --out of `seed_dist.eval --suite`.") from error
    return values


def _label(entry: Entry) -> str:
    return f"{entry['suite']} on {entry['set']['name']} {entry['set']['split']}"


def _require_same(what: str, a: dict[str, Any], b: dict[str, Any], of: Path) -> None:
    ours, theirs = flat(a), flat(b)
    if names := [name for name in sorted({**ours, **theirs}) if ours.get(name) != theirs.get(name)]:
        found, wanted = ({name: values.get(name) for name in names} for values in (theirs, ours))
        raise MismatchError(f"{what} in {of}", found, wanted, _SAME)


def _differences(label: str, a: tuple[Path, Entry], b: tuple[Path, Entry]) -> list[Difference]:
    drawn_a, drawn_b = _drawn(*a), _drawn(*b)
    values_b = {figure["name"]: figure for figure in b[1]["figures"]}
    found = []
    for figure in a[1]["figures"]:
        other = values_b.get(figure["name"])
        if other is None or figure["name"] not in drawn_a or figure["name"] not in drawn_b:
            continue
        if figure["n"] != other["n"]:
            raise MismatchError(f"n of {label} {figure['name']} in {b[0]}", other["n"], figure["n"], _SAME)
        moved, difference = drawn_b[figure["name"]] - drawn_a[figure["name"]], other["value"] - figure["value"]
        low, high = interval(moved)
        share = float(np.mean(np.sign(moved) == np.sign(difference)))
        found.append(Difference(label, figure["name"], figure["value"], other["value"], low, high, share))
    return found


def _drawn(folder: Path, entry: Entry) -> dict[str, Any]:
    path = (folder.parent if folder.name == RECEIPT else folder) / entry["records"] / RESAMPLED
    try:
        with np.load(path, allow_pickle=False) as members:
            return {name: members[name] for name in members.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Measure again with the same command.") from error
