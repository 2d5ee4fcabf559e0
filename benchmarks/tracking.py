"""What tracking costs a training: its step time with MLflow off, into sqlite, to a server, to one that hangs.

  python -m benchmarks.tracking --rounds 5

The training command itself on one rank, stage codebook of the tests' smallest workspace, copied to MLflow while it
trains; `mlflow server` and the copying process run on the same machine, which is the worst case. Each round trains once
in every way, forwards and backwards; told is the median step of a round's training, the first fifth left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.hardware import keep, load
from benchmarks.rounds import times_faster
from seed_dist.obs.journal import JOURNAL
from tests.features import tiny_workspace
from tests.tracking_server import TrackingServer, proxied

STAGE = "codebook"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    load_before = load()
    with TemporaryDirectory() as folder:
        server = TrackingServer(Path(folder))
        server.start()
        try:
            with proxied(server.port) as hung:
                hung.mood = "hangs"
                arms = {"off": None, "sqlite": "", "server": server.url, "server hung": hung.url}
                seconds = measure(Path(folder), arms, args.rounds, args.steps)
        finally:
            server.kill()
    keep(
        "tracking",
        {
            "work": f"{args.steps} steps of the smallest {STAGE} stage on one rank",
            "load_average_before": load_before,
            "median_step_s": {arm: statistics.median(values) for arm, values in seconds.items()},
            "rounds_step_s": seconds,
            "step_time_against_off": {arm: times_faster(seconds, "off", arm) for arm in arms if arm != "off"},
        },
        ["torch", "mlflow"],
    )


def measure(folder: Path, arms: dict[str, str | None], rounds: int, steps: int) -> dict[str, list[float]]:
    """Median step seconds of every arm in every round, after one round that is not counted."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm in list(arms) if number % 2 else reversed(list(arms)):
            value = step_s(folder / "work", arms[arm], steps)
            if number:
                found[arm].append(value)
    return found


def step_s(work: Path, uri: str | None, steps: int) -> float:
    """Median step of one training; `uri` None: no tracking, empty: the run's own sqlite file."""
    overrides = tiny_workspace(work)
    shutil.rmtree(work / STAGE)
    settings = (
        *overrides,
        f"{STAGE}_training.steps={steps}",
        f"{STAGE}_training.checkpoint_every=200",
        f"{STAGE}_training.validate_every={steps}",
    )
    words = ["--recipe", "glyphs", "--work", str(work), "--stage", STAGE, *(f"--set={item}" for item in settings)]
    words += ["--mlflow", "off"] if uri is None else ["--mlflow", "live"]
    words += ["--mlflow-uri", uri] if uri else []
    try:
        subprocess.run(
            [sys.executable, "-m", "seed_dist.train", *words],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        records = [json.loads(line) for line in (work / STAGE / JOURNAL).read_text().splitlines()]
    finally:
        shutil.rmtree(work, ignore_errors=True)  # the copying process, if any, finds nothing more and ends
    times = [record["step_s"] for record in records if record["event"] == "step"]
    return statistics.median(times[len(times) // 5 :])


if __name__ == "__main__":
    main()
