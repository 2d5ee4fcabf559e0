"""Ranks killed at every place of a save, and numbers of ranks that change: the newest whole checkpoint is loaded, and
training from it is what undisturbed training is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_dist.dist.comm import Comm
from tests.forked import Ended, values, world

pytestmark = pytest.mark.multirank

STEPS = 6
# Where a save is cut off, of which step, on which ranks; the whole checkpoints that are left.
PLACES = [
    ("checkpoint.begun", 4, (0, 1), (2,)),  # before the first byte
    ("checkpoint.in_file", 4, (0, 1), (2,)),
    ("checkpoint.file_written", 4, (0, 1), (2,)),
    ("checkpoint.files_written", 4, (0, 1), (2,)),
    ("checkpoint.manifest_written", 4, (0,), (2,)),
    ("checkpoint.renamed", 4, (0,), (2, 4)),  # the pointer still names the one before
    ("checkpoint.pruning", 6, (0,), (4, 6)),  # of three, one has to go
]


def train(comm: Comm, folder: Path, last: int, accumulation: int = 1) -> dict[str, Any]:
    """Go on from the newest checkpoint, or start; save after each second step while training goes on; two are kept."""
    from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint
    from tests.toy_engine import everything, save_now, toy_engine, toy_saver, toy_steps

    engine = toy_engine(comm, accumulation)
    path = newest_checkpoint(folder, comm)
    first = load_checkpoint(path, engine)["step"] if path else 0
    saver, losses = toy_saver(folder, engine), []
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".probe"))
    for step in range(first, last):
        losses += toy_steps(engine, step, step + 1, accumulation)
        if (step + 1) % 2 == 0:
            (result,) = save_now(saver, step + 1)
            assert result.problem is None
    return {"first": first, "losses": losses, "state": everything(engine), "left": left}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return values(world(train, 2, folder, folder / "c", STEPS))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def resumed_exactly(answers: list[dict[str, Any]], undisturbed: list[dict[str, Any]], first: int) -> None:
    for answer, expected in zip(answers, undisturbed, strict=True):
        assert answer["first"] == first
        assert answer["losses"] == expected["losses"][first:]
        assert same(answer["state"], expected["state"])


@pytest.mark.parametrize(
    ("fault", "rank", "left"),
    [(f"{place}:{rank}:{step}:kill", rank, left) for place, step, ranks, left in PLACES for rank in ranks],
)
def test_a_rank_killed_anywhere_in_a_save_costs_nothing_but_the_steps_since(
    fault: str, rank: int, left: tuple[int, ...], tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """The other rank ends too, and at once; no half checkpoint is ever loaded; the next start is bit-identical."""
    folder = tmp_path / "c"
    ended = world(train, 2, tmp_path, folder, STEPS, fault=fault)
    assert ended[rank].code == -9
    assert ended[1 - rank].code == 1, ended[1 - rank]
    assert "RuntimeError" in ended[1 - rank].error  # of gloo, whose peer has gone
    answers = values(world(train, 2, tmp_path, folder, STEPS))
    resumed_exactly(answers, undisturbed, first=left[-1])
    assert answers[0]["left"] == ["latest", *(f"step_{step:08d}" for step in left)]


def test_the_whole_world_killed_in_a_save_goes_on(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    ended: list[Ended] = world(train, 2, tmp_path, tmp_path / "c", STEPS, fault="checkpoint.in_file:*:4:kill")
    assert [rank.code for rank in ended] == [-9, -9]
    resumed_exactly(values(world(train, 2, tmp_path, tmp_path / "c", STEPS)), undisturbed, first=2)


def test_accumulated_gradients_are_never_cut_in_two(tmp_path: Path) -> None:
    """Saves come between optimizer steps, so there is no half accumulated gradient to be saved."""
    whole = values(world(train, 2, tmp_path, tmp_path / "whole", STEPS, 2))
    values(world(train, 2, tmp_path, tmp_path / "cut", 4, 2))
    resumed_exactly(values(world(train, 2, tmp_path, tmp_path / "cut", STEPS, 2)), whole, first=4)


def train_and_gather(comm: Comm, folder: Path, last: int) -> dict[str, Any]:
    """As `train`; what the ranks hold of masters and moments is put together by parameter, before and after."""
    from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint
    from tests.toy_engine import toy_engine

    engine = toy_engine(comm)
    path = newest_checkpoint(folder, comm)
    if path is not None:
        load_checkpoint(path, engine)
    before = _gathered(engine)
    del engine
    answer = train(comm, folder, last)
    fresh = toy_engine(comm)
    load_checkpoint(folder / f"step_{last:08d}", fresh)
    return {
        "before": before,
        "after": _gathered(fresh),
        "losses": answer["losses"],
        "buffers": _buffers(answer["state"]),
    }


def _gathered(engine: Any) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    for part_of_all in engine.comm.gather_objects(
        [(f"{kind}/{part.name}", part.shape, part.start, getattr(part, kind)) for part in engine.fragments()
         for kind in ("master", "exp_avg", "exp_avg_sq")]
    ):  # fmt: skip
        for name, shape, start, values_ in part_of_all:
            flat = whole.setdefault(name, torch.full(shape, torch.nan)).view(-1)
            flat[start : start + len(values_)] = values_
    return whole


def _buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name in ("seen", "drift") or name.startswith("usage.")}


def test_the_number_of_ranks_may_change_from_start_to_start(tmp_path: Path) -> None:
    """ZeRO-2 on 4, 2, 8 and 4 ranks, two steps each: what one world has saved is what the next one holds, bit by bit,
    and losses, moments and buffers are those of 4 ranks all along.
    """
    fixed = values(world(train_and_gather, 4, tmp_path, tmp_path / "fixed", 8))[0]
    losses, held, buffers = [], None, None
    for size, last in ((4, 2), (2, 4), (8, 6), (4, 8)):
        answers = values(world(train_and_gather, size, tmp_path, tmp_path / "changing", last))
        for answer in answers:
            assert not any(value.isnan().any() for value in answer["after"].values())
            assert held is None or same(answer["before"], held)
        held, buffers = answers[0]["after"], answers[0]["buffers"]
        losses += answers[0]["losses"]
    assert len(losses) == 8
    assert losses == pytest.approx(fixed["losses"], rel=1e-5)
    assert held is not None
    assert held.keys() == fixed["after"].keys()
    for name, value in fixed["after"].items():
        assert torch.allclose(held[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max())), name
    assert buffers is not None
    assert same(buffers, fixed["buffers"])
    assert len(buffers) == 5
