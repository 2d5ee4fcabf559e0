"""Peak memory counts children, and each page once."""

from __future__ import annotations

import subprocess
import sys

from seed_dist.obs.memory import watched_memory

HOLD = "import sys, time; held = bytearray(b'x') * (200 << 20); print('held', flush=True); time.sleep(1.5)"


def test_what_a_child_holds_is_seen_and_stays_the_peak() -> None:
    with watched_memory() as before:
        pass
    with watched_memory() as peak:
        subprocess.run([sys.executable, "-c", HOLD], check=True, capture_output=True, timeout=60)
        seen = peak.size_bytes
    assert 200 << 20 < seen - before.size_bytes < 320 << 20
    assert peak.size_bytes >= seen
