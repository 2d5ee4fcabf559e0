"""Where a proof kills and stops its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed_dist.config import STAGES, load_recipe
from seed_dist.faults import parse_faults
from seed_dist.proof.resumption import LEAST_STEPS, planned_parts
from seed_dist.proof.trial import Trial, small


@pytest.mark.parametrize("steps", [LEAST_STEPS, 9, 12, 50])
@pytest.mark.parametrize("ranks", [(2,), (2, 1, 4), (3, 1)])
def test_the_kill_comes_behind_a_checkpoint_and_the_stop_behind_the_kill(steps: int, ranks: tuple[int, ...]) -> None:
    trial = Trial("glyphs", (), "codebook", Path("w"), steps, steps // 4)
    places = set()
    for seed in range(200):
        first, second, last = planned_parts(trial, ranks, seed)
        assert [part.ranks for part in (first, second, last)] == [ranks[number % len(ranks)] for number in range(3)]
        (kill,), (stop,) = parse_faults(first.fault), parse_faults(second.fault)
        assert kill.step is not None
        assert stop.step is not None
        resumed_at = (kill.step - kill.point.startswith("checkpoint")) // trial.save_every * trial.save_every
        assert 0 < resumed_at <= stop.step < steps - 1  # after the stop there is at least a step left
        assert kill.step < steps
        assert kill.rank in range(first.ranks)
        assert stop.rank in range(second.ranks)
        assert last.fault == ""
        places.add((kill, stop))
        assert planned_parts(trial, ranks, seed) == [first, second, last]
    assert len(places) > 10


def test_a_trial_keeps_what_is_learnt_and_a_small_one_is_a_valid_recipe() -> None:
    for stage in STAGES:
        recipe = load_recipe("seed_v2")
        trial = Trial("seed_v2", ("seed=5",), stage, Path("w"), 12, 3)
        training = trial.loaded().training(stage)
        assert (training.checkpoint_every, training.log_every, training.validate_every) == (3, 1, 12)
        assert (training.steps, training.lr) == (recipe.training(stage).steps, recipe.training(stage).lr)
        assert trial.loaded().seed == 5
        lesser = Trial("seed_v2", small(recipe, stage), stage, Path("w"), 12, 3).loaded()
        assert lesser.training(stage).global_batch < training.global_batch
        assert lesser.training(stage).accumulation == training.accumulation
