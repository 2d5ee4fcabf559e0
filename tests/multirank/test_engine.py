"""ZeRO-2 with FusedAdam against plain AdamW; skipped steps; going on from a checkpoint at the same and at another world
size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint
from seed_dist.dist.comm import Comm
from seed_dist.dist.ds_config import load_ds_config
from seed_dist.dist.engine import Engine, start_engine
from seed_dist.train.parameter_groups import parameter_groups
from seed_dist.train.schedule import learning_rate
from tests.harness import run_ranks
from tests.toy_engine import everything, save_now, toy_saver

pytestmark = pytest.mark.multirank

BATCH, STEPS = 8, 6
TRAINING = TrainConfig(
    steps=10, global_batch=BATCH, lr=3e-2, warmup_steps=2, weight_decay=0.1, clip_norm=0.5, beta2=0.98
)
TABLE = "table.weight"


class Toy(nn.Module):
    """Every kind of parameter that matters: matrices, biases, a norm, a table, a scalar, a frozen one; and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.second = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.table = nn.Embedding(6, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.second(torch.tanh(self.norm(self.first(batch["x"])))) * self.scale
        out = self.frozen(hidden) + self.table(batch["row"])
        self.seen += 1
        return (out - batch["y"]).square().mean(), {}


def _batch(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    x, y = torch.randn(BATCH, 5, generator=generator), torch.randn(BATCH, 3, generator=generator)
    return {"x": x, "y": y * 3, "row": torch.randint(6, (BATCH,), generator=generator)}


def _mine(batch: dict[str, Tensor], comm: Comm, micro: int = 0, micros: int = 1) -> dict[str, Tensor]:
    part = BATCH // micros // comm.size
    start = micro * (BATCH // micros) + comm.rank * part
    return {key: value[start : start + part] for key, value in batch.items()}


def _start(comm: Comm, accumulation: int = 1) -> Engine:
    training = copy.deepcopy(TRAINING)
    object.__setattr__(training, "accumulation", accumulation)
    module = Toy()
    groups = parameter_groups(module, training.weight_decay, (TABLE,))
    return start_engine(module, groups, training, load_ds_config(EngineConfig(), training, "fp32", comm.size), comm)


def _steps(engine: Engine, first: int, last: int, accumulation: int = 1) -> list[float]:
    """Global mean loss of each step."""
    losses = []
    for step in range(first, last):
        loss = torch.zeros(())
        for micro in range(accumulation):
            part, _ = engine.forward(_mine(_batch(step), engine.comm, micro, accumulation))
            engine.backward(part)
            loss += part.detach() / accumulation
        assert engine.step(learning_rate(TRAINING, step)).applied
        losses.append(float(engine.comm.mean(loss)))
    return losses


def _world(comm: Comm, folder: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    engine = _start(comm)
    out["losses"] = _steps(engine, 0, 4)
    save_now(toy_saver(folder, engine), 4)
    out["losses"] += _steps(engine, 4, STEPS)
    out["straight"] = everything(engine)
    out["fragments"] = [(part.name, part.start, part.master.numel()) for part in engine.fragments()]
    out["skip"] = _skip(engine)
    out["accumulated_losses"] = _steps(accumulating := _start(comm, 2), 0, STEPS, 2)
    out["accumulated"] = everything(accumulating)
    resumed = _start(comm)
    path = newest_checkpoint(folder, comm)
    assert path is not None
    out["resumed_state"] = load_checkpoint(path, resumed)
    _steps(resumed, 4, STEPS)
    out["resumed"] = everything(resumed)
    out["revival"] = _revive(resumed)
    return out


def _skip(engine: Engine) -> dict[str, Any]:
    """A step in which only the last rank has a bad loss."""
    before, comm = everything(engine), engine.comm
    loss, _ = engine.forward(_mine(_batch(0), comm))
    engine.backward(loss * float("inf") if comm.rank == comm.size - 1 else loss)
    result = engine.step(0.1)
    after = everything(engine)
    same = [name for name in before if name != "seen" and torch.equal(before[name], after[name])]
    return {
        "applied": result.applied,
        "norm": result.grad_norm,
        "same": len(same) == len(before) - 1,
        "compared": len(same),
    }


def _revive(engine: Engine) -> dict[str, Any]:
    """Rows written into the table, then one step with a known gradient."""
    rows, values = torch.tensor([1, 4]), torch.tensor([[9.0, 8.0, 7.0], [-9.0, -8.0, -7.0]])
    engine.overwrite_rows(TABLE, rows, values)
    table = dict(engine.module.named_parameters())[TABLE]
    written = table.detach()[rows].clone()
    moments = [
        part.exp_avg_sq.abs().sum().item() for part in engine.fragments() if part.name == TABLE
    ]  # of all six rows: the other rows keep theirs
    zeroed = _moments_of_rows(engine, rows)
    batch = {"x": torch.zeros(4, 5), "y": torch.zeros(4, 3), "row": torch.tensor([0, 2, 3, 5])}  # rows 1 and 4 unused
    loss, _ = engine.forward(batch)
    engine.backward(loss)
    engine.step(0.1)
    return {
        "written": written,
        "zeroed": zeroed,
        "moments": sum(moments),
        "after": table.detach()[rows].clone(),
        "values": values,
    }


def _moments_of_rows(engine: Engine, rows: Tensor) -> float:
    """Sum of both moments' absolute values over this rank's part of the given rows."""
    total = 0.0
    for part in engine.fragments():
        if part.name == TABLE:
            row = (torch.arange(part.master.numel()) + part.start) // part.shape[1]
            here = torch.isin(row, rows)
            total += float((part.exp_avg[here].abs() + part.exp_avg_sq[here].abs()).sum())
    return total


def _elsewhere(comm: Comm, folder: Path) -> dict[str, Any]:
    """One rank goes on from what two ranks wrote."""
    engine = _start(comm)
    path = newest_checkpoint(folder, comm)
    assert path is not None
    load_checkpoint(path, engine)
    return {"losses": _steps(engine, 4, STEPS), "state": everything(engine)}


def _plain() -> tuple[list[float], dict[str, Tensor]]:
    """torch's AdamW on the whole batch."""
    module = Toy()
    groups = parameter_groups(module, TRAINING.weight_decay, (TABLE,))
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(TRAINING.beta1, TRAINING.beta2), eps=TRAINING.eps)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(TRAINING, step)
        loss, _ = module(_batch(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), TRAINING.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: value.detach() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> list[dict[str, Any]]:
    return run_ranks(_world, 2, tmp_path_factory.mktemp("ranks"), checkpoints)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path, two: list[dict[str, Any]]) -> dict[str, Any]:
    return run_ranks(_elsewhere, 1, tmp_path_factory.mktemp("rank"), checkpoints)[0]


@pytest.mark.parametrize("kind", ["straight", "accumulated"])
def test_zero2_with_fused_adam_is_adamw_on_the_whole_batch(kind: str, two: list[dict[str, Any]]) -> None:
    losses, expected = _plain()
    start = {name: value.detach() for name, value in Toy().state_dict().items()}
    for answer in two:
        assert answer["losses" if kind == "straight" else "accumulated_losses"] == pytest.approx(losses, rel=1e-5)
        trained = [name for name in expected if not name.startswith("frozen") and name != "seen"]
        assert len(trained) == 8
        for name in trained:
            assert torch.allclose(answer[kind][name], expected[name], atol=1e-6), name
            assert not torch.allclose(answer[kind][name], start[name], atol=1e-3), name  # it did move
        assert torch.equal(answer[kind]["frozen.weight"], start["frozen.weight"])


def test_the_optimizer_state_is_cut_over_the_ranks(two: list[dict[str, Any]]) -> None:
    trainable = {name: value.numel() for name, value in Toy().named_parameters() if value.requires_grad}
    held = [dict.fromkeys(trainable, 0) for _ in two]
    for rank, answer in enumerate(two):
        for name, _, count in answer["fragments"]:
            held[rank][name] += count
    assert {name: held[0][name] + held[1][name] for name in trainable} == trainable
    assert 0.3 < sum(held[0].values()) / sum(trainable.values()) < 0.7


def test_a_bad_loss_on_one_rank_voids_the_step_on_all(two: list[dict[str, Any]]) -> None:
    for answer in two:
        assert answer["skip"]["compared"] > 20
        assert answer["skip"]["same"]
        assert not answer["skip"]["applied"]
        assert answer["skip"]["norm"] == float("inf")


def test_resuming_is_bit_identical(two: list[dict[str, Any]]) -> None:
    for answer in two:
        assert answer["resumed_state"]["step"] == 4
        assert answer["resumed"].keys() == answer["straight"].keys()
        for name, value in answer["straight"].items():
            assert torch.equal(answer["resumed"][name], value), name


def test_one_rank_goes_on_from_the_checkpoint_of_two(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    assert one["losses"] == pytest.approx(two[0]["losses"][4:], rel=1e-6)
    whole = {name: value for name, value in two[0]["straight"].items() if "/" not in name and name != "seen"}
    assert len(whole) == 10
    for name, value in whole.items():
        assert torch.allclose(one["state"][name], value, atol=1e-6), name


def test_rows_written_into_a_table_survive_the_next_step(two: list[dict[str, Any]]) -> None:
    for answer in two:
        revival = answer["revival"]
        assert torch.equal(revival["written"], revival["values"])
        assert torch.equal(revival["after"], revival["values"])  # neither the old master nor the old momentum came back
        assert revival["zeroed"] == 0
    assert sum(answer["revival"]["moments"] for answer in two) > 0
