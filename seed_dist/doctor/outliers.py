"""Names the odd one out of a few measurements: each is compared with the others, so that it cannot hide itself."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Ordinary nodes differ by some percent; a GPU that is too hot, a link that fell back or a sick disk by much more.
_TOLERANCE = {"matmul_flops": 0.3, "pair_bytes_s": 0.4, "disk_bytes_s": 0.6}
_CLOCK_S = 2.0  # journals, leases and SLURM's end times are compared between nodes
_DEVIATIONS = 5.0
_NORMAL = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation


@dataclass(frozen=True)
class Odd:
    """A rank whose measurement does not go with the others'."""

    rank: int
    host: str
    what: str


def odd_ones(hosts: Sequence[str], measured: Mapping[str, Sequence[float | None]]) -> list[Odd]:
    """`measured`: a value for each rank by quantity, more being better; of `clock_s`, the rank's clock, none is."""
    found = []
    for quantity, values in measured.items():
        for rank, value in enumerate(values):
            others = [other for place, other in enumerate(values) if place != rank and other is not None]
            if value is None or not others:
                continue
            what = _clock(value, others) if quantity == "clock_s" else _rate(quantity, value, others)
            found += [Odd(rank, hosts[rank], what)] if what else []
    return found


def _clock(value: float, others: Sequence[float]) -> str:
    """A clock may be off in both directions, so the median is that of all: one of three cannot move it. Of two that
    differ, nobody knows which is wrong, and both are named.
    """
    apart_s = value - (statistics.median([value, *others]) if len(others) > 1 else others[0])
    return f"its clock is {apart_s:+.1f} s from the others'" if abs(apart_s) > _CLOCK_S else ""


def _rate(quantity: str, value: float, others: Sequence[float]) -> str:
    usual = statistics.median(others)
    spread = _NORMAL * statistics.median([abs(other - usual) for other in others])
    is_odd = usual - value > max(_TOLERANCE[quantity] * usual, _DEVIATIONS * spread)
    return f"{quantity} {value:.3g}, the others' median {usual:.3g}" if is_odd else ""


def exclude_option(odd: Sequence[Odd]) -> str:
    """For sbatch; empty where nobody is odd."""
    hosts = sorted({one.host for one in odd})
    return f"--exclude={','.join(hosts)}" if hosts else ""
