""".ci/run calls what the Makefile has, and no test runs twice or never (`make` here records what it is asked for)."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

FAKE_MAKE = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >>"$RECORD"\n'
MARKED = """
import pytest

def test_plain(): pass

@pytest.mark.cluster
def test_on_a_cluster(): pass

@pytest.mark.nightly
def test_at_night(): pass

@pytest.mark.cluster
@pytest.mark.nightly
def test_on_a_cluster_at_night(): pass
"""


def asked_of_make(tmp_path: Path, **environment: str) -> list[str]:
    """The words of all calls of make in a copy of the script, where SLURM cannot be installed."""
    for name, text in (("bin/make", FAKE_MAKE), ("tools/install_slurm.sh", "#!/bin/sh\nexit 1\n")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(stat.S_IRWXU)
    (tmp_path / ".ci").mkdir(exist_ok=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    record = tmp_path / "record"
    record.write_text("")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name != "CLUSTER"}
    command = ["bash", str(tmp_path / ".ci/run")]
    subprocess.run(command, env={**inherited, "PATH": path, "RECORD": str(record), **environment}, check=True)
    return record.read_text().splitlines()


def selected(expression: str, tmp_path: Path) -> set[str]:
    """Which of MARKED pytest takes."""
    (tmp_path / "test_marked.py").write_text(MARKED)
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-m", expression, "test_marked.py"]
    command = [sys.executable, "-m", "pytest", *words]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    return set(re.findall(r"::(\w+)", shown.stdout))


@pytest.mark.parametrize(("given", "clusters"), [({}, 1), ({"CLUSTER": "1"}, 1), ({"CLUSTER": "0"}, 0)])
def test_the_tests_on_a_cluster_are_left_out_only_when_asked(
    given: dict[str, str], clusters: int, tmp_path: Path
) -> None:
    words = asked_of_make(tmp_path, **given)
    assert (words.count("test"), words.count("test-cluster")) == (1, clusters)


def test_every_test_runs_once(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    found = re.search(r"^test:.*?-m \"([^\"]+)\"", makefile, re.MULTILINE | re.DOTALL)
    assert found
    assert '-m "$(CLUSTER_TESTS)"' in makefile
    (asked,) = (word for word in asked_of_make(tmp_path) if word.startswith("CLUSTER_TESTS="))
    first, second = selected(found[1], tmp_path), selected(asked.partition("=")[2], tmp_path)
    assert first == {"test_plain"}
    assert second == {"test_on_a_cluster"}
