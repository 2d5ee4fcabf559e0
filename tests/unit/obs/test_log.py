"""The program's logger: one line each on standard error, quiet on other ranks; and what tests leave behind of it."""

from __future__ import annotations

import logging

import pytest

from seed_dist.obs.log import get_logger, quieten_other_ranks


@pytest.mark.parametrize("turn", [1, 2])
def test_no_test_inherits_what_another_did_to_the_logger(turn: int, caplog: pytest.LogCaptureFixture) -> None:
    quiet = logging.getLogger("seed_dist")
    assert (quiet.handlers, quiet.propagate, quiet.level) == ([], True, logging.NOTSET)
    quiet.warning("turn %d", turn)
    assert [record.message for record in caplog.records] == [f"turn {turn}"]
    quieten_other_ranks(1)
    assert (len(quiet.handlers), quiet.propagate, quiet.level) == (1, False, logging.WARNING)


def test_a_line_is_told_once_however_often_the_logger_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        get_logger()
    get_logger().info("step %d", 7)
    assert capsys.readouterr().err.count("step 7") == 1
