"""How commands end: exit codes, messages, and no taking apart of the interpreter after collectives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.cli import run_command
from seed_dist.fsio import write_text

SCRIPT = """
import atexit, sys, torch
from seed_dist.cli import end_process
from seed_dist.errors import ConfigError
atexit.register(lambda: print("taken apart"))
def main():
    print("worked")
    {ending}
end_process(main)
"""


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("pass", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('no way')", 1, "no way"),
        ("raise ConfigError(['option x is 1'])", 2, "error: "),
        ("1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_a_process_ends_with_its_code_and_words_at_once(ending: str, code: int, message: str) -> None:
    script = SCRIPT.format(ending=ending)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "worked\n")
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == (ending == "1 / 0")


@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_reader_that_has_seen_enough_is_no_error(lines: int) -> None:
    script = f"""
import sys
from seed_dist.cli import run_command
sys.exit(run_command(lambda: print(*range({lines}), sep=chr(10))))
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("path", ["file/more", "file", "folder"], ids=["below", "file", "folder"])
def test_a_file_where_a_folder_is_needed_is_said_in_words(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    write = write_text if path == "folder" else lambda out, text: out.mkdir()
    assert run_command(lambda: write(tmp_path / path, "new")) == 3
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / path}: ")
    assert "give another path" in told
    assert {found.name for found in tmp_path.iterdir()} == {"file", "folder"}


def test_another_broken_pipe_is_a_defect() -> None:
    script = "import sys; from seed_dist.cli import run_command\ndef main(): raise BrokenPipeError\nrun_command(main)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr
