"""`python -m seed_dist.eval --suite`: all ranks make records, then the first one scores them and writes the receipt.

Scoring needs no other rank, so they leave before it begins: however long it takes, nobody waits in a collective.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.dist.comm import Comm
from seed_dist.dist.launch import allow_open_files, limit_threads, open_comm
from seed_dist.errors import DataError, UnavailableError
from seed_dist.fsio import folder_lock, write_text
from seed_dist.obs.log import get_logger
from seed_dist.suites import receipt
from seed_dist.suites.models import Models
from seed_dist.suites.options import Request
from seed_dist.suites.page import render
from seed_dist.suites.run import Measurement, make_records, measurement
from seed_dist.suites.selection import measured_examples, open_data, open_suite
from seed_dist.topology import World

# A rank waits in a collective as long as the slowest one needs for a chunk; after this it gives up.
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Made:
    """Measurements whose records are all there; what could not be, or lacks a judge; hardware."""

    done: list[Measurement]
    gaps: list[dict[str, str]]
    unmeasured: list[dict[str, str]]
    hardware: dict[str, Any]


def run(request: Request, world: World) -> None:
    """Measure, and on the first rank write the receipt. DataError when something that was asked for is missing."""
    limit_threads(world)
    allow_open_files()
    if world.is_main:
        request.out.mkdir(mode=0o700, parents=True, exist_ok=True)  # records hold captions and answers
    with open_comm(world, TIMEOUT_S) as comm:
        made = make(request, comm)
    if world.is_main:
        for path in finish(request, made):
            print_path(path)
        if made.gaps:
            listed = "\n".join(f"  - {gap['suite']} on {gap['data']}: {gap['why']}" for gap in made.gaps)
            written = "the receipt was written, but without these" if made.done else "nothing could be measured"
            raise DataError(f"{written}:\n{listed}")


def print_path(path: Path) -> None:
    get_logger().info("wrote %s", path)


def make(request: Request, comm: Comm) -> Made:
    """The records of all suites on all sets, by all ranks."""
    models = Models(request.places, comm.device, request.batch_size)
    done, gaps, unmeasured = [], [], []
    for data in request.data:
        try:
            testset = open_data(data, request.places.work)
        except UnavailableError as error:
            gaps += [{"suite": name, "data": data, "why": str(error)} for name in request.suites]
            continue
        for warning in testset.card.get("warnings", ()):
            get_logger().warning("%s: %s", data, warning)
        for name in request.suites:
            began_s = time.monotonic()
            examples, which = measured_examples(name, testset, request.limit, request.painted)
            try:
                suite = open_suite(name, models, request.options, examples)
            except UnavailableError as error:
                gaps.append({"suite": name, "data": data, "why": str(error)})
                continue
            if which:
                suite.protocol["examples"] = which
                get_logger().info("eval  %s on %s: %s examples", name, data, which)
            work = measurement(suite, testset, examples, request.out / "records", request.chunk)
            make_records(work, comm, began_s)
            done.append(work)
            missing: dict[str, str] = getattr(suite, "not_measured", {})
            unmeasured += [{"suite": f"{name} {figure}", "data": data, "why": why} for figure, why in missing.items()]
    return Made(done, gaps, unmeasured, receipt.hardware(comm.device, comm.size))


def finish(request: Request, made: Made) -> Iterator[Path]:
    """Score on this rank alone; the paths of what is written."""
    if not made.done:
        return
    with folder_lock(request.out, "receipt of an evaluation"):
        scored = []
        for work in made.done:
            began_s = time.monotonic()
            scored.append(receipt.score(work, request.drawn))
            get_logger().info("eval  %s scored in %.1f s", work.suite.name, time.monotonic() - began_s)
        facts = {"bootstrap": receipt.described(request.drawn), "hardware": made.hardware, "seed": request.options.seed}
        values = receipt.write(request.out, scored, [*made.gaps, *made.unmeasured], facts)
        write_text(request.out / "receipt.html", render(values, scored))
    yield request.out / receipt.RECEIPT
    yield request.out / "receipt.html"
