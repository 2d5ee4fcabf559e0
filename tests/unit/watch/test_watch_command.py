"""`python -m seed_dist.watch` as users and batch scripts run it: what it prints and the code that it ends with."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.watch.attempts import begin_attempt, end_attempt, read_attempt
from seed_dist.watch.notes import DeathNote, RankState, write_death

FAKE_SACCT = "#!/bin/sh\necho COMPLETED\necho OUT_OF_MEMORY\n"
FAKE_SCONTROL = '#!/bin/sh\necho "JobId=$3"\necho "   StdOut=$LOG"\n'


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose stage 1 is done, in the first life of job 17."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    done = tmp_path / "work" / "causal_qformer"
    done.mkdir(parents=True)
    end_attempt(begin_attempt(done, ["one"]), "finished", 100)
    return tmp_path / "work"


def watch(root: Path, *words: str, **environment: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-m", "seed_dist.watch", *words],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def died(work: Path, step: int, signal: int | None = 9) -> Path:
    run = work / "codebook"
    run.mkdir(exist_ok=True)
    attempt = begin_attempt(run, ["one"])
    state = RankState(0, 5, step, "forward", 0.1, died_s=5.0, signal=signal)
    write_death(attempt, DeathNote("one", 5.0, "died", 0, False, (state,)))
    return attempt


def test_the_last_attempt_of_the_job_decides(root: Path, work: Path) -> None:
    assert watch(root, str(work), "--exit-code", "0") == (0, "verdict: done (all has been done)\n")
    code, text = watch(root, str(work), "--exit-code", "3")  # what came after that training
    assert (code, "verdict: stop (exit code 3" in text) == (3, True)
    attempt = died(work, 5)
    code, text = watch(root, str(work), "--exit-code", "137")
    assert code == 75
    assert text.startswith("== codebook, attempt-1: the run died ==\ncause:         killed: killed by SIGKILL\n")
    assert text.endswith("verdict: requeue (death 1 of at most 20: killed)\n")
    assert (attempt / "cause.txt").read_text() in text
    assert watch(root, str(work), "--exit-code", "0")[0] == 75  # and no success of the job changes that
    for _ in range(2):
        assert watch(root, str(died(work, 5).parent.parent), "--exit-code", "137")[0] in (75, 137)
    code, text = watch(root, str(work), "--exit-code", "137")
    assert (code, "3 deaths at step 5" in text) == (137, True)


def test_another_life_of_the_job_has_other_attempts(root: Path, work: Path) -> None:
    died(work, 5)
    code, text = watch(root, str(work), "--exit-code", "2", SLURM_RESTART_COUNT="1")
    assert (code, text) == (2, "verdict: stop (exit code 2; the message is above)\n")


def test_the_batch_system_is_asked(root: Path, work: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sacct": FAKE_SACCT, "scontrol": FAKE_SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    log = tmp_path / "job.log"
    log.write_text("first\n" * 50 + "the last words\n")
    attempt = died(work, 5)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LOG": str(log)}
    code, text = watch(root, str(work), "--exit-code", "137", **environment)
    assert (code, read_attempt(attempt).kind) == (75, "oom")
    for words in ("OUT_OF_MEMORY, exit code 137", "the last words", "--mem"):
        assert words in text
    died(work, 9)
    code, text = watch(root, str(work), "--exit-code", "137", **environment)
    assert (code, "out of memory 2 times" in text) == (137, True)


def test_without_a_code_it_shows_the_page(root: Path, work: Path) -> None:
    attempt = died(work, 5)
    code, text = watch(root, str(work / "codebook"))
    assert (code, text.strip()) == (0, (attempt / "cause.txt").read_text().strip())
    code, text = watch(root, str(work / "causal_qformer"))
    assert (code, "finished, as it should" in text) == (0, True)
    code, text = watch(root, str(work / "nothing"))
    assert (code, "has no attempt" in text) == (2, True)
