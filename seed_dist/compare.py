"""What sets runs apart: differences of configuration and parents, and the last figures side by side; a page overlays
their curves.

  python -m seed_dist.compare runs/a/codebook runs/b/codebook
  python -m seed_dist.compare runs/a/codebook runs/b/codebook runs/c/codebook --html runs/compared.html

The first run is the one that the others are compared with. Figures of training are means over the last 20 logged steps,
those of validation are the last one's.

Exit codes: 0 compared (whatever differs), 2 wrong options, 3 a folder is no run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.errors import ConfigError
from seed_dist.fsio import write_text
from seed_dist.page.charts import STYLES, Series, behind, lines
from seed_dist.page.document import head
from seed_dist.page.markup import Html, table, tag
from seed_dist.status.facts import Facts, RunReader
from seed_dist.status.history import Curve
from seed_dist.status.text import number, printable

_ABSENT = "-"
_CELL = 48  # characters; longer values are cut in the terminal, never on the page
Rows = list[list[str]]


def main() -> None:
    args = _parse()
    count = len(args.runs)
    if not 2 <= count <= STYLES:
        raise ConfigError([f"{count} run(s) are named; give 2 to {STYLES} (WORK/STAGE): lines must be told apart"])
    readers = [RunReader(run) for run in args.runs]
    facts = [reader.facts() for reader in readers]
    names = short_names([reader.folder for reader in readers])
    differing, final = differences([reader.record for reader in readers]), figures(facts)
    print(_text("What differs", ["option", *names], differing or [["nothing", *[""] * count]]))
    print(_text("Last figures", ["figure", *names], final))
    if args.html is not None:
        write_text(args.html, render(readers, names, differing, final))
        print(f"{args.html} overlays their curves")


def short_names(folders: Sequence[Path]) -> list[str]:
    """As few of the last parts of the paths as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def differences(records: Sequence[Mapping[str, Any]]) -> Rows:
    """A row for each option, parent or circumstance that is not the same in all run.json."""
    flat = [dict(_circumstances(record)) for record in records]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [[name, *(str(one.get(name, _ABSENT)) for one in flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _circumstances(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The identity decides what is learnt; the recipe also holds what does not; the rest is who ran it where."""
    yield from sorted(record["identity"].items())
    for section, values in record["recipe"].items():
        options = values if isinstance(values, Mapping) else {"": values}
        for option, value in options.items():
            if (name := f"{section}.{option}".rstrip(".")) not in record["identity"]:
                yield name, value
    git = record.get("git") or {}
    yield from (("world_size", record.get("world_size")), ("host", record.get("host")))
    yield from (("git.revision", git.get("revision")), ("git.dirty", git.get("dirty")))
    yield from ((f"versions.{name}", value) for name, value in (record.get("versions") or {}).items())


def figures(runs: Sequence[Facts]) -> Rows:
    """State, steps and the last figures of each, one row for each that any run has."""
    rows = [
        ["state", *(run.state for run in runs)],
        ["step", *(f"{run.step:,} of {run.steps:,}" for run in runs)],
        ["skipped steps", *(f"{run.skipped:,}" for run in runs)],
        ["incidents", *(f"{len(run.incidents):,}" for run in runs)],
    ]
    for prefix, values in (("", [run.figures for run in runs]), ("validation/", [run.validation for run in runs])):
        names = dict.fromkeys(name for one in values for name in one)
        rows += [[f"{prefix}{name}", *(number(one.get(name)) or _ABSENT for one in values)] for name in names]
    return rows


def render(readers: Sequence[RunReader], names: Sequence[str], differing: Rows, final: Rows) -> str:
    """The page: both tables, and a chart for each figure that any run has a curve of."""
    curves = [reader.history.curves for reader in readers]
    known = dict.fromkeys(name for one in curves for name in one)
    charts = [chart for figure in known if (chart := _chart(figure, names, curves))]
    columns = ["option", *names]
    same = tag("p", "Nothing: neither options nor parents, code or versions.")
    sections = (
        tag("h2", "What differs"),
        tag("div", table(columns, differing, "Values as in run.json"), class_="facts") if differing else same,
        tag("h2", "Last figures"),
        table(["figure", *names], final, "Training: means over the last 20 logged steps; validation: the last one"),
        tag("h2", "Curves"),
        tag("div", charts, class_="charts"),
    )
    title = f"{len(names)} runs compared"
    body = tag("body", tag("header", tag("h1", title), tag("p", ", ".join(names))), tag("main", *sections))
    return "<!doctype html>\n" + tag("html", head(title), body, lang="en") + "\n"


def _chart(figure: str, names: Sequence[str], curves: Sequence[Mapping[str, Curve]]) -> Html | None:
    """Runs without a point keep their place among the line styles, so that a run looks the same in all charts."""
    empty = Curve()
    series = [Series(name, (c := one.get(figure, empty)).xs, c.ys) for name, one in zip(names, curves, strict=True)]
    title = figure.replace("_", " ")
    return tag("div", lines(series, title, "step", title, ()), behind(series, title, "step"))


def _text(title: str, columns: Sequence[str], rows: Rows) -> str:
    cells = [[printable(cell[:_CELL] + ("…" if len(cell) > _CELL else "")) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    lines_ = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join([title, *(f"  {line}" for line in lines_), ""])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory, WORK/STAGE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page that overlays the curves")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
