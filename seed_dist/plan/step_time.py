"""How long a step takes, and what it waits for: computing, the network or the storage."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step. `compute_s` at the high and the low share of the peak, so fast and slow."""

    compute_s: Range
    network_s: float
    read_s: float

    @property
    def seconds(self) -> Range:
        """Fast: everything happens at once and the longest counts. Slow: the network waits for computing; reading is
        done ahead in either case."""
        fast, slow = self.compute_s
        return max(fast, self.network_s, self.read_s), max(slow + self.network_s, self.read_s)

    @property
    def limited_by(self) -> tuple[str, str]:
        """What the step waits for at the fast and at the slow end, where the network comes on top of computing."""
        fast, slow = self.compute_s
        together = "compute" if slow >= self.network_s else "network"
        lasting = {"compute": fast, "network": self.network_s, "storage": self.read_s}
        at_the_slow_end = "storage" if self.read_s > slow + self.network_s else together
        return max(lasting, key=lambda name: lasting[name]), at_the_slow_end


def step_time(flops: float, peak_flops: float, share: Range, network_s: float, read_s: float) -> StepTime:
    """`flops` of one rank at a share of its peak."""
    low, high = share
    return StepTime((flops / (peak_flops * high), flops / (peak_flops * low)), network_s, read_s)
