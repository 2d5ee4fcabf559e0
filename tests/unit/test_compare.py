"""Runs beside each other: exactly what differs, figures in the right columns, curves that can be told apart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.compare import differences, short_names
from seed_dist.status.facts import RunReader
from tests.unit.status.written_run import step, write_events, write_run


def test_exactly_what_differs_is_told(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / "codebook"), write_run(tmp_path / "b" / "codebook", "codebook.size=1024")]
    runs.append(write_run(tmp_path / "c" / "codebook", "codebook_training.log_every=7"))
    records = [RunReader(run).record for run in runs]
    records[2]["identity"]["parents.train"] = "cc"
    records[2]["versions"]["torch"] = None
    rows = {row[0]: row[1:] for row in differences(records)}
    assert set(rows) == {"codebook.size", "codebook_training.log_every", "parents.train", "versions.torch"}
    assert rows["codebook.size"] == ["2048", "1024", "2048"]
    assert rows["parents.train"] == ["aa", "aa", "cc"]
    assert differences(records[:1] * 2) == []


def test_the_command_and_its_page(tmp_path: Path) -> None:
    runs = [tmp_path / name / "codebook" for name in ("a", "b<i>")]
    for n, run in enumerate(runs, 1):
        write_run(run)
        write_events(run, ("start", 0, {"host": "h"}), *(step(k, loss=float(n * k)) for k in range(1, 30)))
    write_events(runs[1], ("validation", 29, {"i2t_r1": 0.25}))
    page = tmp_path / "compared.html"
    command = [sys.executable, "-m", "seed_dist.compare", *map(str, runs), "--html", str(page)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.search(r"^  loss +19\.5 +39$", told, re.MULTILINE)
    assert re.search(r"^  validation/i2t_r1 +- +0\.25$", told, re.MULTILINE)
    text = page.read_text()
    assert "<i>" not in text
    assert text.count("b&lt;i&gt;/codebook") > 3
    assert text.count('class="line line1"') >= 8  # the second run's, in every chart
    alone = subprocess.run(command[:4], capture_output=True, text=True, check=False, timeout=60)
    assert alone.returncode == 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [(("x/a", "x/b"), ["a", "b"]), (("x/a/s", "y/a/s"), ["x/a/s", "y/a/s"]), (("x/a", "y/b"), ["a", "b"])],
)
def test_names_are_as_short_as_they_can_be(tmp_path: Path, paths: tuple[str, ...], names: list[str]) -> None:
    assert short_names([tmp_path / path for path in paths]) == names
