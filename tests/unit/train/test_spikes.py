"""When losses are a spike: by the rule, on sequences whose answer can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from seed_dist.config import TrainConfig
from seed_dist.train.spikes import is_spike
from seed_dist.train.state import TrainState

TRAINING = TrainConfig(steps=100, global_batch=4, spike_window=4, spike_patience=2)
WINDOW = [1.0, 3.0, 1.0, 3.0]  # mean 2, standard deviation 1: odd is what lies above 8


def verdicts(losses: Iterable[float], training: TrainConfig = TRAINING) -> list[bool]:
    state = TrainState()
    return [is_spike(state, loss, training) for loss in losses]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([*WINDOW, 8.1, 8.1], [False] * 5 + [True]),
        ([*WINDOW, 8.0, 8.0], [False] * 6),
        ([*WINDOW, 9.0, 2.0, 9.0, 2.0, 9.0, 9.0], [False] * 9 + [True]),  # one odd batch is none, however often
        ([*WINDOW[:3], 1e6, 1e6], [False] * 5),  # not before the window is full
        ([2.0, 2.0, 2.0, 2.0, 2.011, 2.011], [False] * 6),  # a loss that hardly moves
        ([2.0, 2.0, 2.0, 2.0, 2.013, 2.013], [False] * 5 + [True]),
    ],
)
def test_the_rule(losses: list[float], expected: list[bool]) -> None:
    assert verdicts(losses) == expected


def test_it_can_be_turned_off() -> None:
    off = TrainConfig(steps=100, global_batch=4, spike_window=4, spike_patience=1, spike_deviations=0.0)
    assert verdicts([*WINDOW, 1e9, 1e9], off) == [False] * 6


def test_what_it_remembers_goes_through_a_checkpoint() -> None:
    losses = [*WINDOW, 2.5, 8.9, 9.1]
    for cut in range(len(losses)):
        state = TrainState()
        before = [is_spike(state, loss, TRAINING) for loss in losses[:cut]]
        state = TrainState.from_dict(json.loads(json.dumps(state.as_dict())))
        assert before + [is_spike(state, loss, TRAINING) for loss in losses[cut:]] == [False] * 6 + [True]
