"""The command: fast, without torch, with exit codes; and nothing from a file steers the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.status.written_run import step, write_events, write_run


def _status(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "seed_dist.status", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_tells_people_and_scripts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "work" / "codebook")
    write_events(run, ("start", 0, {"host": "n"}), step(1), ("alarm", 1, {"what": "\x1b[31mred\nline"}))
    write_events(run, ("checkpoint", 1, {"path": "step_1"}), ("stop", 1, {"reason": "SIGTERM"}))
    told = _status(str(tmp_path / "work"))
    assert told.returncode == 75, told.stderr[-2000:]
    assert "\x1b" not in told.stdout
    assert "\\x1b[31mred\\x0aline" in told.stdout
    assert "50.0% of the codes in use, perplexity 300" in told.stdout
    assert "10.0% of it waiting for data" in told.stdout
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines() if line.startswith("import time")}
    assert {"psutil", "json"} <= loaded
    assert loaded & {"torch", "numpy", "pydantic"} == set()
    write_events(run, ("start", 1, {"host": "n"}))
    scripted = _status(str(run), "--json")
    assert scripted.returncode == 7
    (facts,) = json.loads(scripted.stdout)
    assert (facts["state"], facts["step"], facts["figures"]["grad_norm"]) == ("died", 1, 2.0)
    assert _status(str(tmp_path / "nothing")).returncode == 3
