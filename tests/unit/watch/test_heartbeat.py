"""What a rank writes is what its watchdog reads, and costs nothing."""

from __future__ import annotations

import timeit
from pathlib import Path
from typing import get_args

from seed_dist.config import Phase
from seed_dist.watch.heartbeat import PHASES, Heartbeat, HeartbeatReader
from seed_dist.watch.start import timeouts_s


def test_the_watchdog_reads_what_the_rank_beat(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "beat")
    reader = HeartbeatReader(tmp_path / "beat")
    assert (reader.read().phase, reader.read().step) == ("start", 0)
    heart.samples(8, range(100, 103))
    heart.samples(9, range(1000))
    heart.beat("forward", 8)
    heart.detail("shard-000001.tar, byte 512 \N{GREEK SMALL LETTER ALPHA}" + "x" * 500)
    beat = reader.read()
    assert (beat.phase, beat.step, beat.samples) == ("forward", 8, (100, 101, 102))
    assert beat.detail.startswith("shard-000001.tar, byte 512 \N{GREEK SMALL LETTER ALPHA}xxx")
    assert 0 <= beat.age_s < 5
    heart.beat("data", 9)
    assert reader.read().samples == tuple(range(64))
    heart.beat("data", 17)  # whose slot still holds step 9
    assert reader.read().samples == ()
    assert (tmp_path / "beat").stat().st_mode & 0o777 == 0o600


def test_a_beat_costs_microseconds(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "beat")
    assert min(timeit.repeat(lambda: heart.beat("forward", 8), number=1000, repeat=5)) / 1000 < 20e-6


def test_every_phase_has_a_time_out_but_the_end() -> None:
    assert (*get_args(Phase), "end") == PHASES
    limits = timeouts_s(600.0, {"forward": 7.0})
    assert set(limits) == set(PHASES) - {"end"}
    assert (limits["forward"], limits["backward"], limits["start"]) == (7.0, 300.0, 1200.0)
