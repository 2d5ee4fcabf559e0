"""Batches of the training loop lie in memory that is used again, and are what the stage makes of the samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seed_dist.config import load_recipe
from seed_dist.train.data import open_data, order_of
from seed_dist.train.stages.build import build_stage
from seed_dist.train.state import TrainState
from seed_dist.train.steps import steps_ahead
from seed_dist.watch.heartbeat import Heartbeat, HeartbeatReader
from tests.features import tiny_workspace


def test_the_steps_are_those_of_the_order_and_their_memory_comes_back(tmp_path: Path) -> None:
    recipe = load_recipe("glyphs", (*tiny_workspace(tmp_path), "codebook_training.accumulation=2"))
    data = open_data(recipe, "codebook", tmp_path)
    comm: Any = SimpleNamespace(rank=1, size=2, device=torch.device("cpu"))
    stage = build_stage(recipe, "codebook", tmp_path, data, comm)
    training = recipe.codebook_training
    order = order_of(data.train, 5, training, comm.rank, comm.size)
    heartbeat, watchdog = Heartbeat(tmp_path / "beat"), HeartbeatReader(tmp_path / "beat")
    run: Any = SimpleNamespace(
        stage=stage,
        order=order,
        training=training,
        state=TrainState(step=3),
        engine=SimpleNamespace(comm=comm),
        heartbeat=heartbeat,
    )
    addresses = set()
    for step, batches in enumerate(steps_ahead(run, 30), 3):
        heartbeat.beat("forward", step)
        assert watchdog.read().samples == tuple(np.concatenate(order.micro_batches(step)))
        for ids, batch in zip(order.micro_batches(step), batches, strict=True):
            stored = data.train.read(ids)
            assert np.array_equal(batch["causal"].numpy(), stored["causal"])
            assert np.array_equal(batch["target"].numpy(), stored["image_embedding"])
            addresses.add(batch["causal"].data_ptr())
    assert step == 29
    assert len(addresses) == 4 * 2  # four steps of two micro-batches
