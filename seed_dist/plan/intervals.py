"""How often to save when nodes fail, and how often a time limit cuts a run."""

from __future__ import annotations

import math

SAVE_BEFORE_LIMIT_S = 300.0  # --signal=USR1@300 of the batch scripts


def young(save_s: float, mtbf_s: float) -> float:
    """Seconds between saves that lose least (Young 1974, "A first order approximation to the optimum checkpoint
    interval"): sqrt(2 C M)."""
    return math.sqrt(2 * save_s * mtbf_s)


def daly(save_s: float, mtbf_s: float) -> float:
    """The same to higher order (Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart
    dumps"); where saving takes longer than twice the mean time between failures, that time itself.
    """
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2 * mtbf_s)
    return young(save_s, mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def lost_share(interval_s: float, save_s: float, mtbf_s: float) -> float:
    """Share of the time that goes into saving and into work done twice, to first order."""
    return save_s / interval_s + (interval_s / 2 + save_s) / mtbf_s


def requeues(hours: float, wall_limit_hours: float) -> int:
    """How often the job goes back into the queue; every attempt ends five minutes before the limit."""
    useful = wall_limit_hours - SAVE_BEFORE_LIMIT_S / 3600
    return max(0, math.ceil(hours / useful) - 1)
