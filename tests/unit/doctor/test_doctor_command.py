"""The command as a script would use it."""

from __future__ import annotations

import json
import subprocess
import sys


def _doctor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seed_dist.doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_failures_are_in_the_exit_code_and_have_a_command() -> None:
    run = _doctor("--hardware", "v100", "--json")
    found = {one["what"]: one for one in json.loads(run.stdout)}
    assert found["python"]["state"] == "ok"
    assert "fp16 on NVIDIA V100" in found["precision"]["text"]
    assert run.returncode == int(any(one["state"] == "failed" for one in found.values()))
    if found["torch"]["state"] == "failed":  # everywhere but beside a build for CUDA 12.6
        assert run.returncode == 1
        assert found["torch"]["mend"].startswith("python -m pip install")


def test_all_wrong_options_are_told_at_once() -> None:
    run = _doctor("--nodes", "0", "--work", "x")
    assert run.returncode == 2
    assert "--nodes is 0" in run.stderr
    assert "without --recipe" in run.stderr
