"""Signals set a flag and nothing else."""

from __future__ import annotations

import os
import signal

import pytest

from seed_dist.dist.preempt import STOP_SIGNALS, stop_requests


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_flag_and_the_process_goes_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert not request
        os.kill(os.getpid(), number)
        assert request
        assert request.reason == number.name
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_interrupts_and_a_second_sigterm_does_not() -> None:
    with stop_requests() as request:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
