"""A small module under the real engine: every kind of parameter that matters, and a loss per step that any number of
ranks computes alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.dist.checkpoint_folder import Retention, prepare_folder
from seed_dist.dist.checkpoint_saver import CheckpointSaver, SaveResult
from seed_dist.dist.comm import Comm
from seed_dist.dist.ds_config import load_ds_config
from seed_dist.dist.engine import Engine, start_engine
from seed_dist.models.code_usage import CodeUsage
from seed_dist.train.parameter_groups import parameter_groups

BATCH, TABLE = 8, "table.weight"


class Toy(nn.Module):
    """Matrices, biases, a norm, a table, a scalar, a frozen layer; usage statistics and buffers of three dtypes."""

    seen: Tensor
    drift: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.second = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.table = nn.Embedding(6, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.usage = CodeUsage(6, 3)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.uint8))
        self.register_buffer("drift", torch.zeros(5))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.second(torch.tanh(self.norm(self.first(batch["x"])))) * self.scale
        out = self.frozen(hidden) + self.table(batch["row"])
        return (out - batch["y"]).square().mean(), {}


def toy_engine(comm: Comm, accumulation: int = 1) -> Engine:
    training = TrainConfig(
        steps=100, global_batch=BATCH, accumulation=accumulation, lr=3e-2, weight_decay=0.1, clip_norm=0.5, beta2=0.98
    )
    module = Toy()
    groups = parameter_groups(module, training.weight_decay, (TABLE,))
    return start_engine(module, groups, training, load_ds_config(EngineConfig(), training, "fp32", comm.size), comm)


def toy_steps(engine: Engine, first: int, last: int, accumulation: int = 1) -> list[float]:
    """Global mean loss of each step."""
    losses, comm = [], engine.comm
    for step in range(first, last):
        generator = torch.Generator().manual_seed(100 + step)
        x, y = torch.randn(BATCH, 5, generator=generator), torch.randn(BATCH, 3, generator=generator)
        batch = {"x": x, "y": y * 3, "row": torch.randint(6, (BATCH,), generator=generator)}
        loss, part = torch.zeros(()), BATCH // accumulation // comm.size
        for micro in range(accumulation):
            start = micro * (BATCH // accumulation) + comm.rank * part
            own, _ = engine.forward({key: value[start : start + part] for key, value in batch.items()})
            engine.backward(own)
            loss += own.detach() / accumulation
        assert engine.step(3e-2 * 0.9**step).applied
        module: Any = engine.module
        module.usage.record(batch["row"], lambda counts: counts)
        module.seen += 1
        module.drift += 0.1
        losses.append(float(comm.mean(loss)))
    return losses


def everything(engine: Engine) -> dict[str, Tensor]:
    """Parameters, buffers, and this rank's masters and moments."""
    state = {name: value.detach().clone() for name, value in engine.module.state_dict().items()}
    for part in engine.fragments():
        for kind in ("master", "exp_avg", "exp_avg_sq"):
            state[f"{kind}/{part.name}/{part.start}"] = getattr(part, kind).clone()
    return state


def toy_saver(folder: Path, engine: Engine, keep: int = 2, permanent_every: int = 0) -> CheckpointSaver:
    prepare_folder(folder, engine.comm)
    return CheckpointSaver(engine, Retention(folder, keep, permanent_every))


def save_now(saver: CheckpointSaver, step: int) -> list[SaveResult]:
    """A save of the present state that is waited for."""
    saver.begin({"step": step})
    results = saver.wait(30.0)
    assert not saver.is_busy
    return results
