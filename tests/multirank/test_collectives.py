"""Three ways, one answer: two gloo ranks, LocalComm, and plain torch on the concatenated batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm, LocalComm, RankZeroError, on_main
from seed_dist.errors import DataError, TrainingError
from seed_dist.losses import contrastive_loss
from seed_dist.train.data import open_data
from seed_dist.train.stages.build import build_stage
from tests.features import tiny_workspace
from tests.harness import run_ranks

pytestmark = pytest.mark.multirank
STAGES = ("causal_qformer", "codebook", "lora")
BATCH = 8


def _rows(rank: int, size: int, total: int = BATCH) -> slice:
    part = total // size
    return slice(rank * part, (rank + 1) * part)


def _features() -> tuple[torch.Tensor, torch.Tensor]:
    ramp = torch.linspace(0, 12, BATCH * 5).view(BATCH, 5)
    return torch.sin(ramp), torch.cos(1.7 * ramp)


def _contrastive(comm: Comm, with_gradient: bool) -> dict[str, torch.Tensor]:
    """This rank's loss and the gradients of both features and the temperature, averaged over ranks by the caller."""
    mine = _rows(comm.rank, comm.size)
    image, text = (feature[mine].clone().requires_grad_() for feature in _features())
    temperature = torch.tensor(0.3, requires_grad=True)
    gather = comm.gather_with_gradient if with_gradient else comm.gather
    normal = [F.normalize(feature, dim=-1) for feature in (image, text)]
    loss = contrastive_loss(*normal, temperature, 0.1, gather, comm.rank)
    loss.backward()
    assert image.grad is not None
    assert text.grad is not None
    assert temperature.grad is not None
    return {"loss": loss.detach(), "image": image.grad, "text": text.grad, "temperature": temperature.grad}


def _stage_gradients(comm: Comm, work: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Loss and gradients of every stage on the same global batch, averaged over ranks as ZeRO-2 does."""
    recipe, out = load_recipe("glyphs", overrides), {}
    for name in STAGES:
        torch.manual_seed(1)
        data = open_data(recipe, name, work)
        stage = build_stage(recipe, name, work, data, comm)
        with torch.no_grad():  # as initialised, a Q-Former sees all images alike and gradients are small differences
            for value in stage.parameters():
                value.mul_(6 if value.ndim > 1 else 1)
        loss, _ = stage(
            {
                key: value.float() if value.is_floating_point() else value
                for key, value in stage.make_batch(np.arange(BATCH)[_rows(comm.rank, comm.size)], 3).items()
            }
        )
        loss.backward()
        gradients = {key: comm.mean(value.grad) for key, value in stage.named_parameters() if value.grad is not None}
        out[name] = {"loss": comm.mean(loss.detach()), **gradients}
    return out


def _collectives(comm: Comm, work: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    own = torch.arange(6.0).view(3, 2) + 10 * comm.rank
    try:
        on_main(comm, _fail)
        failed = None
    except (DataError, RankZeroError) as error:
        failed = type(error).__name__, error.exit_code, str(error)
    return {
        "position": (comm.rank, comm.size),
        "sum": comm.sum(own),
        "mean": comm.mean(own),
        "gather": comm.gather(own),
        "own": own,  # unchanged by all of the above
        "integers": comm.sum(torch.tensor([comm.rank, 5])),
        "agree": [comm.agree(comm.rank == 1), comm.agree(False), comm.agree(True)],
        "left_out": _leave_out_one_vote(comm),
        "objects": comm.gather_objects({"rank": comm.rank}),
        "broadcast": comm.broadcast_object(f"from {comm.rank}"),
        "on_main": on_main(comm, lambda: f"made by {comm.rank}"),
        "failed": failed,
        "contrastive": _contrastive(comm, with_gradient=True),
        "contrastive_plain": _contrastive(comm, with_gradient=False),
        "stages": _stage_gradients(comm, work, overrides),
    }


def _leave_out_one_vote(comm: Comm) -> tuple[int, str]:
    """How far a rank comes when rank 1 leaves out its third vote, and what it is told."""
    for step in range(10):
        if (comm.rank, step) == (1, 2):
            continue
        try:
            comm.agree(False, step)
        except TrainingError as error:
            return step, str(error)
    return 10, ""


def _fail() -> None:
    raise DataError("no such folder")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_workspace(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, work: tuple[Path, tuple[str, ...]]) -> list[dict[str, Any]]:
    return run_ranks(_collectives, 2, tmp_path_factory.mktemp("ranks"), *work)


def test_sums_means_and_gathers_are_those_of_the_concatenated_batch(two: list[dict[str, Any]]) -> None:
    parts = [torch.arange(6.0).view(3, 2) + 10 * rank for rank in range(2)]
    assert [answer["position"] for answer in two] == [(0, 2), (1, 2)]
    for rank, answer in enumerate(two):
        assert torch.equal(answer["sum"], parts[0] + parts[1])
        assert torch.equal(answer["mean"], (parts[0] + parts[1]) / 2)
        assert torch.equal(answer["gather"], torch.cat(parts))
        assert torch.equal(answer["own"], parts[rank])
        assert answer["integers"].tolist() == [1, 10]


def test_flags_and_objects_are_the_same_on_all_ranks(two: list[dict[str, Any]]) -> None:
    for answer in two:
        assert answer["agree"] == [True, False, True]
        assert answer["objects"] == [{"rank": 0}, {"rank": 1}]
        assert answer["broadcast"] == "from 0"
        assert answer["on_main"] == "made by 0"


def test_a_vote_that_a_rank_left_out_is_noticed_by_all_at_the_next(two: list[dict[str, Any]]) -> None:
    assert [answer["left_out"][0] for answer in two] == [2, 3]
    for answer in two:
        assert "others are at 2 to 3" in answer["left_out"][1]


def test_an_error_of_rank_0_ends_all_ranks_with_its_exit_code(two: list[dict[str, Any]]) -> None:
    assert two[0]["failed"] == ("DataError", DataError.exit_code, "no such folder")
    assert two[1]["failed"] == ("RankZeroError", DataError.exit_code, "rank 0 ended with: no such folder")


def test_one_process_is_the_identity() -> None:
    comm, own = LocalComm(), torch.arange(4.0)
    for result in (comm.sum(own), comm.mean(own), comm.gather(own)):
        assert torch.equal(result, own)
        assert result is not own
    assert comm.gather_with_gradient(own) is own
    assert (comm.agree(True), comm.agree(False), comm.gather_objects(3), comm.broadcast_object(4)) == (
        True,
        False,
        [3],
        4,
    )


def test_contrastive_loss_of_two_ranks_is_that_of_one_with_the_whole_batch(two: list[dict[str, Any]]) -> None:
    whole, parts = _contrastive(LocalComm(), with_gradient=True), [answer["contrastive"] for answer in two]
    assert torch.allclose((parts[0]["loss"] + parts[1]["loss"]) / 2, whole["loss"], rtol=1e-6)
    for name in ("image", "text"):
        # Each rank's loss is a mean over its half of the rows, so a row's gradient is twice that of the whole mean.
        assert torch.allclose(torch.cat([part[name] for part in parts]) / 2, whole[name], atol=1e-7)
    assert torch.allclose((parts[0]["temperature"] + parts[1]["temperature"]) / 2, whole["temperature"], rtol=1e-5)


def test_gathering_without_gradient_gives_the_same_loss_and_other_gradients(two: list[dict[str, Any]]) -> None:
    for answer in two:
        assert torch.equal(answer["contrastive"]["loss"], answer["contrastive_plain"]["loss"])
        assert not torch.allclose(answer["contrastive"]["image"], answer["contrastive_plain"]["image"], atol=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_loss_and_gradients_of_a_stage_do_not_depend_on_the_number_of_ranks(
    stage: str, two: list[dict[str, Any]], work: tuple[Path, tuple[str, ...]]
) -> None:
    alone = _stage_gradients(LocalComm(), *work)[stage]
    assert len(alone) > 4
    for answer in two:
        assert answer["stages"][stage].keys() == alone.keys()
        for name, value in alone.items():
            # fp32 sums in another order.
            assert torch.allclose(answer["stages"][stage][name], value, atol=1e-4 * float(value.abs().max()) + 1e-6), (
                name
            )
