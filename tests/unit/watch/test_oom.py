"""The kernel's counters of processes that were killed for memory."""

from __future__ import annotations

import os
from pathlib import Path

from seed_dist.watch.oom import oom_files, oom_kills


def test_counters_of_both_kinds_of_cgroups_and_of_the_node_are_added(tmp_path: Path) -> None:
    texts = {
        "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 7\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "vmstat": "nr_free_pages 1\noom_kill 4\n",
        "other": "nothing\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert oom_kills([*(tmp_path / name for name in texts), tmp_path / "gone"]) == 7


def test_this_process_is_counted_somewhere() -> None:
    assert Path("/proc/vmstat") in oom_files(os.getpid())
