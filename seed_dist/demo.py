"""`make demo`: the whole SEED system, from captioned images to a report with pictures, on a laptop.

Runs the commands of the chain one after the other and shows each as it would be typed by hand. Interrupted, it goes on
where it was; finished, it says so. `--data FOLDER` takes your own images and captions instead of the drawn scenes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from seed_dist.cli import run_command
from seed_dist.config import Recipe, load_recipe
from seed_dist.errors import DataError, MismatchError, SeedDistError
from seed_dist.fsio import fingerprint, folder_lock, write_json
from seed_dist.obs.memory import watched_memory
from seed_dist.ops.chain import ROOT, Chain, Step

_SECONDS, _PEAKS, _FINISHED = "seconds.json", "peak_memory_bytes.json", "steps.json"  # step name -> value


def main() -> None:
    args = _parse()
    work, data = args.work.resolve(), args.data.resolve() if args.data else None
    if data and not data.is_dir():
        raise DataError(
            f"--data {data} is no folder. Give a folder of images with captions (NAME.jpg beside NAME.txt)."
        )
    chain = Chain(args.recipe, work, data, args.ranks, args.scale, tuple(args.set))
    recipe = load_recipe(args.recipe, args.set)
    with folder_lock(work, "seed-dist demo"):
        started = time.monotonic()
        _check_same_demo(work, chain, recipe)
        ran = sum(run_step(work, step) for step in chain.steps(recipe))
        minutes = (time.monotonic() - started) / 60
    print(f"\n{'Finished' if ran else 'Already finished'}: {ran} steps run now, in {minutes:.1f} minutes.")
    print(f"  report with pictures: {work / 'report.html'}\n  all numbers:          {work / 'report.json'}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="workspace folder (default %(default)s)")
    parser.add_argument("--data", type=Path, help="your own folder of images and captions; default: drawn scenes")
    parser.add_argument("--recipe", default="glyphs", help="recipe name or .yaml file (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="training processes (default %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes to draw (default %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change a recipe value"
    )
    return parser.parse_args()


def _check_same_demo(work: Path, chain: Chain, recipe: Recipe) -> None:
    """One workspace holds one demo: data and recipe are written down at the start and compared on later runs."""
    record = work / "demo.json"
    identity = {"recipe": recipe.fingerprint(), "data": str(chain.data or "drawn scenes"), "scale": chain.scale}
    if not record.exists():
        write_json(record, identity)
        return
    found = json.loads(record.read_text())
    for what, value in identity.items():
        if found.get(what) != value:
            raise MismatchError(
                f"{what} of the demo in {work}",
                value,
                found.get(what),
                "Give another folder with --work (make demo WORK=...), or delete this one to start over.",
            )


def run_step(work: Path, step: Step, again: bool = False) -> bool:
    """Run one command unless it is recorded as finished; with `again` in any case. True when it ran.

    Its seconds go to seconds.json, the most memory that it and its children took to peak_memory_bytes.json.
    """
    seconds, peaks, finished = (_read(work / name) for name in (_SECONDS, _PEAKS, _FINISHED))
    mark = fingerprint(step.shown())
    if finished.get(step.name) == mark and not again:
        return False
    print(f"\n--- {step.name}\n$ {step.shown()}", flush=True)
    started = time.monotonic()
    with watched_memory() as peak:
        code = subprocess.run(step.command, cwd=ROOT, env=_environment(), check=False).returncode
    if code != 0:
        raise StepFailedError(step, code)
    seconds[step.name] = round(seconds.get(step.name, 0.0) + time.monotonic() - started, 1)
    peaks[step.name] = max(peaks.get(step.name, 0), peak.size_bytes)
    finished[step.name] = mark
    for name, values in ((_SECONDS, seconds), (_PEAKS, peaks), (_FINISHED, finished)):
        write_json(work / name, values)
    return True


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _environment() -> dict[str, str]:
    """The children's environment: no hub access, DeepSpeed told that there is no accelerator to look for."""
    return {"HF_HUB_OFFLINE": "1", "WDS_SECURE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}


class StepFailedError(SeedDistError):
    """A command of the chain ended with an error; its own message stands above this one."""

    def __init__(self, step: Step, code: int) -> None:
        self.exit_code = code if 0 < code < 126 else 1
        super().__init__(
            f"step {step.name} ended with exit code {code} (its message is above). Mend the cause and run the same "
            "command again: finished steps are not repeated."
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
