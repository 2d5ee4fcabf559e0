"""A training that goes on with other numbers of ranks, also such as do not divide its batch, learns the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seed_dist.config import StageName, load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.obs.provenance import stage_identity
from seed_dist.train.data import open_data
from seed_dist.train.start import Request, run_stage
from tests.features import tiny_workspace
from tests.forked import values, world

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(600)]  # five worlds in one fixture

STAGES: tuple[StageName, ...] = ("causal_qformer", "codebook", "lora")
LEGS = ((3, 3), (2, 6), (4, 9), (3, 12))  # ranks, and the step until which there are so many
STEPS = LEGS[-1][1]


def _leg(comm: Comm, works: dict[StageName, Path], overrides: tuple[str, ...], last_step: int) -> list[str]:
    outcomes = []
    for stage, work in works.items():
        recipe = load_recipe("glyphs", overrides)
        data = open_data(recipe, stage, work)
        request = Request(recipe, stage, work, stage_identity(recipe, stage, data.parents), last_step)
        outcomes.append(run_stage(request, data, comm).value)
    return outcomes


def _works(folder: Path) -> tuple[dict[StageName, Path], tuple[str, ...]]:
    """A workspace for each stage, with the same features and earlier exports, and the overrides that fit them."""
    made = folder / "made"
    made.mkdir(parents=True)
    overrides = tiny_workspace(made)
    works: dict[StageName, Path] = {stage: folder / stage for stage in STAGES}
    for stage, work in works.items():
        work.mkdir()
        for name in {"features", "causal_qformer", "codebook"} - {stage}:
            (work / name).symlink_to(made / name)
    sizes = ("steps=12", "global_batch=11", "validate_every=100")
    return works, (*overrides, *(f"{stage}_training.{size}" for stage in STAGES for size in sizes))


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[dict[str, Any]]]]:
    """Of the stages, with one rank throughout and with numbers that change."""
    folder, found = tmp_path_factory.mktemp("elastic"), {}
    for name, legs in (("one rank", ((1, STEPS),)), ("elastic", LEGS)):
        works, overrides = _works(folder / name)
        for size, last_step in legs:
            outcomes = values(world(_leg, size, folder, works, overrides, last_step, timeout_s=90.0))
            assert outcomes == [["finished" if last_step == STEPS else "limit"] * 3] * size
        found[name] = [read_journal(work / stage / JOURNAL) for stage, work in works.items()]
    return found


@pytest.mark.parametrize("stage", range(3), ids=STAGES)
def test_losses_do_not_depend_on_the_number_of_ranks(journals: Any, stage: int) -> None:
    one, elastic = ([r for r in journals[name][stage] if r["event"] == "step"] for name in ("one rank", "elastic"))
    assert [r["world_size"] for r in journals["elastic"][stage] if r["event"] == "start"] == [size for size, _ in LEGS]
    assert [r["step"] for r in one] == [r["step"] for r in elastic] == list(range(1, STEPS + 1))
    for ours, theirs in zip(one, elastic, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), ours["step"]
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2, abs=1e-4), ours["step"]
    assert one[0]["loss"] != one[-1]["loss"]
