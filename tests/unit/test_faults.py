"""Fault points do nothing unless planned, and hit exactly what was planned."""

from __future__ import annotations

import errno

import pytest

from seed_dist.errors import ConfigError
from seed_dist.faults import Fault, InjectedFaultError, fault_point, parse_faults


def test_a_plan_names_point_rank_step_and_action() -> None:
    planned = parse_faults("checkpoint.begun:1:400:kill, train.before_step:*:*:raise")
    assert planned == (Fault("checkpoint.begun", 1, 400, "kill"), Fault("train.before_step", None, None, "raise"))


@pytest.mark.parametrize("text", ["checkpoint", "a:b:1:kill", "a:1:1:explode", "a:1:-2:kill", "a:1:1:kill:now"])
def test_a_plan_that_cannot_be_read_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ConfigError, match="SEED_DIST_FAULT") as caught:
        parse_faults(text)
    assert text in str(caught.value)


def test_only_the_planned_point_rank_and_step_fail() -> None:
    planned = parse_faults("here:1:5:raise")
    for point, rank, step in (("there", 1, 5), ("here", 0, 5), ("here", 1, 4)):
        fault_point(point, rank, step, planned)
    with pytest.raises(InjectedFaultError, match="here"):
        fault_point("here", 1, 5, planned)


@pytest.mark.parametrize(
    ("action", "text", "number"),
    [("full", "No space left", errno.ENOSPC), ("io", "Input/output", errno.EIO), ("quota", "quota", errno.EDQUOT)],
)
def test_a_full_or_broken_disk_looks_like_one(action: str, text: str, number: int) -> None:
    with pytest.raises(OSError, match=text) as caught:
        fault_point("write", 0, 0, parse_faults(f"write:*:*:{action}"))
    assert caught.value.errno == number


def test_nothing_is_planned_in_an_ordinary_process() -> None:
    fault_point("checkpoint.begun", 0, 0)
