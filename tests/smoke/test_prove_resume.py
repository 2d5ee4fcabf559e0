"""The proof of exact resumption: it passes for what is shipped, and fails at the right step when the loader is off by
one after a restart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.features import tiny_workspace
from tests.harness import TIMEOUT_S

pytestmark = [pytest.mark.multirank, pytest.mark.slow]
STEPS = 8


def prove(checkout: Path, work: Path, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the certificate of the command as it is in `checkout`."""
    overrides = tiny_workspace(work)
    shutil.rmtree(work / "codebook")  # the untrained export that the third stage's tests need
    settings = [word for item in (*overrides, "codebook_training.steps=20") for word in ("--set", item)]
    where = ["--recipe", "glyphs", "--work", str(work), "--stage", "codebook", "--steps", str(STEPS)]
    command = [sys.executable, "-m", "seed_dist.prove_resume", *where, *settings, *words]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    certificate = work / "proofs" / "codebook" / "resume.json"
    assert certificate.is_file(), done.stderr[-3000:]
    return done.returncode, done.stdout + done.stderr, json.loads(certificate.read_text())


@pytest.mark.timeout(4 * TIMEOUT_S)
def test_what_is_shipped_resumes_exactly_and_on_other_world_sizes(root: Path, tmp_path: Path) -> None:
    code, said, certificate = prove(root, tmp_path, "--ranks", "2,1")
    assert code == 0, said
    assert "PASS  codebook, 8 steps" in said
    assert certificate["passed"]
    assert certificate["bitwise"]["first_difference"] is None
    assert certificate["bitwise"]["equal"]["tensors"] > 60
    assert certificate["bitwise"]["equal"]["step records"] >= STEPS
    assert certificate["elastic"]["equal"] == {"step records": certificate["elastic"]["equal"]["step records"]}
    assert len(certificate["runs"]["elastic"]) == 3
    for name in ("recipe_fingerprint", "hardware", "git", "versions", "seed", "overrides", "started"):
        assert certificate[name] is not None
    assert sorted(path.name for path in (tmp_path / "proofs" / "codebook").glob("*") if path.is_dir()) == []


def off_by_one(root: Path, folder: Path) -> Path:
    """A copy of the package whose loader, when it does not begin at the beginning, is one step ahead: what a position
    that counts read instead of consumed batches does.
    """
    shutil.copytree(root / "seed_dist", folder / "seed_dist", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "ds_configs").symlink_to(root / "ds_configs")
    steps = folder / "seed_dist" / "train" / "steps.py"
    text = steps.read_text()
    for right, wrong in {
        "announce = _Announcer(run, last_step)": "announce, began = _Announcer(run, last_step), run.state.step",
        "return read_batch(run, number, slot)": "return read_batch(run, number + (began > 0), slot)",
    }.items():
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    steps.write_text(text)
    return folder


@pytest.mark.timeout(4 * TIMEOUT_S)
def test_a_loader_that_is_off_by_one_after_a_restart_is_found_in_its_first_step(root: Path, tmp_path: Path) -> None:
    code, said, certificate = prove(off_by_one(root, tmp_path / "wrong"), tmp_path / "work", "--ranks", "1")
    assert code == 3, said
    # The first step after the resume; which one it is depends on whether the save before the kill was on the disk.
    assert re.search(r"first difference bit for bit: step \d+, samples_digest", said), said
    assert "FAIL  codebook" in said
    assert "two undisturbed runs differ" not in said
    assert not certificate["passed"]
    assert certificate["undisturbed_twice"]["first_difference"] is None
    assert (tmp_path / "work" / "proofs" / "codebook" / "resumed" / "codebook" / "journal.jsonl").is_file()
