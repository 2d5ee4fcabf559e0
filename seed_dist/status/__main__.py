"""How a training is doing, from its run directory alone: it is asked nothing and notices nothing.

  python -m seed_dist.status runs/demo/codebook          one run
  python -m seed_dist.status runs/demo runs/other        all stages of workspaces
  python -m seed_dist.status runs/demo --json            for scripts: a list with one object for each run
  python -m seed_dist.status runs/demo/codebook --html   also writes RUN/live.html

While it trains, a run keeps RUN/live.html new by itself. Figures are means over the last 20 logged steps. On rank 0's
machine a run lives when the process that locked it does; seen from elsewhere, when its journal goes on.

Exit codes: 0 every run trains or is finished, 75 one was stopped (start it again to go on), 7 one died or has been
silent for too long, 3 no run there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from seed_dist.cli import EXIT_STOPPED, run_command
from seed_dist.errors import TrainingError
from seed_dist.status.facts import RUN, Facts, RunReader, find_runs
from seed_dist.status.keeping import keep_page
from seed_dist.status.page import write_page
from seed_dist.status.text import status_text


def main() -> None:
    args = _parse()
    if args.follow is not None:
        keep_page(args.runs[0], args.follow, sys.stdin.fileno())
        return
    readers = [RunReader(run) for path in args.runs for run in find_runs(path)]
    facts = [reader.facts() for reader in readers]
    if args.json:
        print(json.dumps([one.as_dict() for one in facts], indent=2))
    else:
        print("\n\n".join(map(status_text, facts)))
    if args.html:
        for reader in readers:
            print(f"written: {write_page(reader)}", file=sys.stderr)
    sys.exit(exit_code(facts))


def exit_code(facts: list[Facts]) -> int:
    """Of the run that needs somebody most."""
    states = {one.state for one in facts}
    if states & {"died", "silent"}:
        return TrainingError.exit_code
    return EXIT_STOPPED if "stopped" in states else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help=f"a folder with a {RUN} (WORK/STAGE), or a workspace")
    add("--json", action="store_true", help="every fact, as JSON; NaN never occurs")
    add("--html", action="store_true", help="write RUN/live.html of each run, once")
    add("--follow", type=int, metavar="PID", help="keep RUN/live.html new until that process ends; training starts it")
    return parser.parse_args()  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
