"""A bounded run of the fuzzer over the readers; longer ones are started by hand, see tests/fuzz/readers.py."""

import subprocess
import sys

import pytest


def test_hostile_bytes_end_in_an_error_of_ours_or_in_all_that_was_there(root, tmp_path):
    pytest.importorskip("atheris", reason="needs atheris: pip install '.[fuzz]'")
    command = [sys.executable, "-m", "tests.fuzz.readers", str(tmp_path / "corpus"), "-runs=3000", "-max_total_time=30"]
    run = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", "-seed=1"],
        cwd=root, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "Done " in run.stderr
