"""Copy trainings to MLflow: what their journals hold and MLflow does not have yet.

  python -m seed_dist.sync runs/demo/codebook                               into the run's own file, mlflow.db
  python -m seed_dist.sync runs/big/* --to http://mlflow.example.org:5000   several, to a server

Training never talks to MLflow: it appends to RUN/journal.jsonl. `--mlflow end` and `live` start this command beside it.
By hand it is for clusters without a way out: copy the run directories to a machine that reaches the server, or mount
them, and run it there, as often as you like. Twice makes no duplicates, killed in the middle it goes on where it was,
and each training stays one run in MLflow through all its attempts.

Steps after the newest checkpoint are sent once a checkpoint or the end of the training has made them final, because
nothing can be taken back in MLflow. A training that is still going on is shown as KILLED until it goes on being copied.

User and password of a server: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the
environment. MLFLOW_EXPERIMENT_NAME instead of seed_dist/STAGE puts the runs into another experiment.

Exit codes: 0 all is there; 2 no such kind of address; 3 no run directory, or an older copy of one; 6 another process
copies it; 9 MLflow did not take everything in time (run the same command again).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.errors import DataError, LockedError, SeedDistError, TrackingError
from seed_dist.fsio import fingerprint, folder_lock
from seed_dist.obs.destination import tracking_uri
from seed_dist.obs.followed import Followed
from seed_dist.obs.log import get_logger
from seed_dist.obs.provenance import RUN
from seed_dist.obs.side_process import stop_giving_way

POLL_S = 10.0
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, WORK/STAGE")
    parser.add_argument(
        "--to", metavar="URI", help="server or database (default: MLFLOW_TRACKING_URI, else RUN/mlflow.db)"
    )
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="SECONDS", help="how long to try again (default: 300)"
    )
    parser.add_argument("--follow", type=int, metavar="PID", help="go on until that process, a training, has ended")
    args = parser.parse_args()
    problems: list[SeedDistError] = []
    for run in args.runs:
        try:
            sent = sync(run, tracking_uri(args.to, run), args.patience, args.follow)
            get_logger().info("%s: %d records sent, all is there", run, sent)
        except SeedDistError as error:
            if len(args.runs) == 1:
                raise
            get_logger().error("%s", error)
            problems.append(error)
    if problems:
        sys.exit(max(error.exit_code for error in problems))


def sync(run: Path, uri: str, patience_s: float, follow: int | None = None) -> int:
    """Copy one run directory, while process `follow` lives and once more; the value is the number of records sent.

    Raises TrackingError when MLflow did not take everything within `patience_s`, counted from when training has ended.
    """
    training = None if follow is None else Followed(follow)
    # Its record is written once everything that a wrong option can break is built.
    while training is not None and training.lives() and not (run / RUN).is_file():
        time.sleep(_FIRST_WAIT_S)
    if not (run / RUN).is_file():
        raise DataError(f"{run} is no run directory: it has no {RUN}. Give WORK/STAGE of a training.")
    from seed_dist.obs.mlflow_sink import MlflowSink

    # One process per run and address. The copy that an earlier attempt started may be at its last records still.
    while True:
        try:
            with folder_lock(run / ".mlflow" / fingerprint(uri), "copy to MLflow"):
                return copy(MlflowSink(run, uri).copy, training, patience_s)
        except LockedError:
            if training is None or not training.lives():
                raise
            time.sleep(_FIRST_WAIT_S)


def copy(send: Callable[[bool], int], training: Followed | None, patience_s: float) -> int:
    """Call `send` (told whether training goes on) until nothing is left, waiting longer after each failure in a row,
    but never beyond the end of `training`.
    """
    sent, waits, told = 0, waits_s(), ""
    deadline_s: float | None = None
    while True:
        goes_on = training is not None and training.lives()
        if training is not None and not goes_on:
            stop_giving_way()
        try:
            sent += send(goes_on)
            if not goes_on:
                return sent
            wait_s, waits, told = POLL_S, waits_s(), ""
        except TrackingError as error:
            wait_s = next(waits)
            if not goes_on:
                deadline_s = deadline_s or time.monotonic() + patience_s
                if time.monotonic() + wait_s > deadline_s:
                    raise
            if str(error) != told:
                get_logger().warning("%s (trying again)", error)
            told = str(error)
        if training is not None and goes_on:
            training.wait(wait_s)
        else:
            time.sleep(wait_s)


def waits_s() -> Iterator[float]:
    """Twice as long each time up to a minute, less up to half by chance: after an outage not all come at once."""
    longest_s = _FIRST_WAIT_S
    while True:
        yield longest_s * random.uniform(0.5, 1.0)
        longest_s = min(2 * longest_s, _LONGEST_WAIT_S)


if __name__ == "__main__":
    sys.exit(run_command(main))
