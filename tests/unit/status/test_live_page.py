"""The page of a run: complete, private, escaped, readable without script or network; kept new beside training."""

from __future__ import annotations

import html
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seed_dist.fsio import folder_lock
from seed_dist.obs.live_page_process import LOG, kept_live_page
from seed_dist.status.facts import RunReader
from seed_dist.status.page import PAGE, render, write_page
from tests.harness import TIMEOUT_S
from tests.unit.status.written_run import step, write_events, write_run

_ATTACK = '<script>alert(1)</script> & "quoted"'
_MEASURE = """
const page = document.querySelector("iframe").contentDocument;
const one = name => page.querySelectorAll(name).length;
document.title = [page.documentElement.scrollWidth, one("svg.chart"), one("details table"), one("script")].join(" ");
"""


def _trained(folder: Path) -> Path:
    run = write_run(folder / "codebook")
    write_events(run, ("start", 0, {"host": _ATTACK, "world_size": 2}))
    write_events(run, *(step(n, loss_scale=65536.0, **{"part<b>": 0.1}) for n in range(1, 60)), ("skipped", 12, {}))
    write_events(run, ("alarm", 50, {"what": _ATTACK}), ("validation", 50, {"loss": 1.0, "i2t_r1": 0.5}))
    write_events(run, ("checkpoint", 59, {"path": "step_00000059", "seconds": 2.0}))
    return run


def test_the_page_is_private_escaped_and_has_a_table_behind_every_chart(tmp_path: Path) -> None:
    run = _trained(tmp_path)
    with folder_lock(run, "training"):
        path = write_page(RunReader(run))
    page = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "<script" not in page
    assert "part<b>" not in page
    assert page.count(html.escape(_ATTACK)) == 2
    assert not re.search(r"@import|url\(|https?://", page)
    charts = re.findall(r'<svg [^>]*class="chart"', page)
    assert len(charts) == len(re.findall(r"<details>", page)) == 13
    assert all('role="img"' in chart and "aria-label" in chart for chart in charts)
    assert 'http-equiv="refresh" content="60"' in page
    assert "http-equiv" not in write_page(RunReader(run)).read_text()  # nobody trains any more


def test_an_empty_run_has_a_page_too(tmp_path: Path) -> None:
    reader = RunReader(write_run(tmp_path / "codebook"))
    assert "Incidents" in render(reader, reader.facts())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium to lay the page out")
def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path: Path) -> None:
    page = write_page(RunReader(_trained(tmp_path))).read_text()
    frame = f'<iframe width="360" height="3000" srcdoc="{html.escape(page)}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text(f"{frame}<script>window.onload = () => {{{_MEASURE}}};</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(["chromium", *options, str(outer)], capture_output=True, text=True, check=False, timeout=120)
    title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", shown.stdout)
    assert title, shown.stderr[-2000:]
    width, charts, tables, scripts = map(int, title.groups())
    assert width <= 360
    assert charts == tables == 13
    assert scripts == 0


def test_training_has_its_page_kept_new_and_leaves_a_last_one(tmp_path: Path) -> None:
    run = _trained(tmp_path)
    page = run / PAGE
    with folder_lock(run, "training"):
        with kept_live_page(run, wanted=True, rank=0):
            _wait_for(page)
            assert ": training, step 59" in page.read_text()
            write_events(run, step(60), ("stop", 60, {"reason": "SIGTERM"}))
        _wait_for(page, ": stopped, step 60")
    assert (run / LOG).read_text() == ""
    page.unlink()
    with kept_live_page(run, wanted=True, rank=1), kept_live_page(run, wanted=False, rank=0):
        pass
    assert not page.exists()


def test_a_killed_training_leaves_a_page_that_says_so(tmp_path: Path) -> None:
    run = _trained(tmp_path)
    code = (
        "import os, sys, time; from pathlib import Path; from seed_dist.fsio import folder_lock\n"
        "from seed_dist.obs.live_page_process import kept_live_page\n"
        "run = Path(sys.argv[1])\n"
        "with folder_lock(run, 'training'), kept_live_page(run, True, 0):\n"
        "    while not (run / 'live.html').exists(): time.sleep(0.1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False, timeout=60).returncode == -9
    _wait_for(run / PAGE, ": died, step 59")


def test_training_goes_on_when_the_page_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with kept_live_page(tmp_path, wanted=True, rank=0):
        pass
    assert "not started" in (tmp_path / LOG).read_text()


def _wait_for(page: Path, text: str = "") -> None:
    deadline = time.monotonic() + TIMEOUT_S  # it has only the time that nobody else wants
    while not page.exists() or text not in page.read_text():
        assert time.monotonic() < deadline, f"{page} does not say {text!r}"
        time.sleep(0.1)
