"""The progress line says how far, how good, how fast and how long still."""

from __future__ import annotations

import io

import pytest

from seed_dist.obs.progress import Progress, format_seconds, progress_line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00"), (59.6, "01:00"), (61, "01:01"), (3599, "59:59"), (3661, "1:01:01"), (90000, "25:00:00")],
)
def test_seconds_are_shown_as_a_clock(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_line_has_all_four() -> None:
    line = progress_line("codebook", 50, 400, 1.23456, 1234.5, 75)
    assert line == "codebook  step 50/400 (12%)  loss 1.235  1,234 samples/s  01:15 left"


def test_a_log_file_gets_the_first_and_the_last_step_and_a_line_now_and_then() -> None:
    stream = io.StringIO()
    progress = Progress("lora", 300, 100, True, stream)
    for step in range(101, 301):
        progress.update(step, 1.0, 10.0)
    lines = stream.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["101/300", "300/300"]
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress("lora", 3, 0, True, stream)
    for step in (1, 2, 3):
        progress.update(step, 1.0, 10.0)
    assert stream.getvalue().startswith("\r")
    assert stream.getvalue().count("\n") == 1


def test_other_ranks_show_nothing() -> None:
    stream = io.StringIO()
    Progress("lora", 1, 0, False, stream).update(1, 1.0, 1.0)
    assert stream.getvalue() == ""
