"""Fair timing of several ways to do the same work: interleaved rounds in one process, medians and ratios.

Every round runs every arm once, forwards in even rounds and backwards in odd ones, so that drift of the machine falls
on all of them. Only ratios are claims; seconds belong to the machine that is named beside them.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_RESAMPLES = 2000


def interleaved(
    arms: Mapping[str, Callable[[], object]], rounds: int, between: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each arm in each round, after one round that is not counted; `between` tidies up behind every arm."""
    for arm in arms.values():
        arm()
        between()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms) if number % 2 == 0 else reversed(list(arms)):
            started = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - started)
            between()
    return seconds


def times_faster(seconds: Mapping[str, Sequence[float]], ours: str, theirs: str) -> dict[str, float]:
    """How many times faster `ours` is: ratio of medians, with a 95 % interval by resampling whole rounds."""
    pairs = list(zip(seconds[theirs], seconds[ours], strict=True))
    generator = random.Random(0)
    drawn = sorted(_ratio([generator.choice(pairs) for _ in pairs]) for _ in range(_RESAMPLES))
    low, high = drawn[int(0.025 * _RESAMPLES)], drawn[int(0.975 * _RESAMPLES) - 1]
    return {"ratio": round(_ratio(pairs), 3), "low": round(low, 3), "high": round(high, 3)}


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(theirs for theirs, _ in pairs) / statistics.median(ours for _, ours in pairs)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 5) for name, values in seconds.items()}


def peak_memory_bytes(benchmark: str, arguments: Sequence[str]) -> int:
    """Largest resident memory of a benchmark run anew with `arguments`, which make it call `print_peak_memory`."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak_memory() -> None:
    """For the process that `peak_memory_bytes` starts. Not `getrusage`, which begins with the parent's peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) * 1024)
