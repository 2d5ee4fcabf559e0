"""The runner: deals the chunks of a set out to the ranks, keeps what is whole, makes the rest; a kill loses one chunk.

Which rank makes which chunk is arithmetic on the list of missing ones, and what a chunk holds does not depend on it.
The ranks take one chunk each and agree after every round, so that an error of one ends all with its message, a dead
rank is noticed at once, and nobody waits longer than a chunk takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.dist.comm import Comm, RankZeroError, on_main
from seed_dist.errors import SeedDistError
from seed_dist.faults import fault_point
from seed_dist.obs.log import get_logger
from seed_dist.suites.records import RecordFolder
from seed_dist.suites.suite import Record, Suite
from seed_dist.testsets.example import Example, TestSet


@dataclass(frozen=True)
class Measurement:
    """One suite on one set, with the folder of its records. `examples`: those that are measured, in their order."""

    suite: Suite
    testset: TestSet
    examples: Sequence[Example]
    records: RecordFolder

    def identity(self) -> dict[str, Any]:
        """What has to be equal for records to be kept."""
        return {
            "suite": self.suite.name,
            "protocol": self.suite.protocol,
            "models": self.suite.models,
            "set": {"name": self.testset.name, "split": self.testset.split, "fingerprint": self.testset.fingerprint},
        }

    def all_records(self) -> list[Record]:
        return self.records.read()


def measurement(suite: Suite, testset: TestSet, examples: Sequence[Example], folder: Path, chunk: int) -> Measurement:
    """`examples`: the first of the set, or all; the identity tells how many."""
    name = f"{testset.name}-{testset.split}"
    records = RecordFolder(folder / name / suite.name, [example.key for example in examples], chunk)
    return Measurement(suite, testset, examples, records)


def make_records(work: Measurement, comm: Comm, began_s: float) -> int:
    """Make all records that are missing, all ranks together; the value is the number of chunks that were made.

    Seconds are kept with them, after every round, so that those of an attempt that is killed count too. `began_s`: by
    `time.monotonic`, when work on this measurement began.

    Raises MismatchError where the folder holds records of something else. An expected error of one rank ends all ranks;
    chunks that were finished stay.
    """

    def claim() -> list[int]:
        work.records.claim(work.identity())
        return work.records.missing()

    def spend() -> None:
        nonlocal began_s
        ended_s = time.monotonic()
        work.records.add_seconds(ended_s - began_s)
        began_s = ended_s

    missing = on_main(comm, claim)
    label = f"{work.suite.name} on {work.testset.name} {work.testset.split}"
    if len(missing) < work.records.chunks:
        get_logger().info(
            "eval  %s: %d of %d chunks are there", label, work.records.chunks - len(missing), work.records.chunks
        )
    for start in range(0, len(missing), comm.size):
        own = missing[start : start + comm.size][comm.rank : comm.rank + 1]
        _agree(comm, _attempt(work, own, comm.rank))
        on_main(comm, spend)
        get_logger().info("eval  %s: %d of %d chunks", label, min(start + comm.size, len(missing)), len(missing))
    if not missing:
        on_main(comm, spend)
    return len(missing)


def _attempt(work: Measurement, numbers: Sequence[int], rank: int) -> Exception | None:
    try:
        for number in numbers:
            rows = work.records.rows(number)
            records = work.suite.records([work.examples[row] for row in rows])
            fault_point("suites.chunk_measured", rank, number)
            work.records.write(number, records)
    except (SeedDistError, OSError) as error:
        return error
    return None


def _agree(comm: Comm, error: Exception | None) -> None:
    """Go on, or end on all ranks: with this rank's own error, or with that of the first rank that has one."""
    told = comm.gather_objects(None if error is None else (str(error), getattr(error, "exit_code", 1)))
    first = next((one for one in told if one is not None), None)
    if error is not None:
        raise error
    if first is not None:
        elsewhere = RankZeroError(f"another rank ended with: {first[0]}")
        elsewhere.exit_code = first[1]
        raise elsewhere
