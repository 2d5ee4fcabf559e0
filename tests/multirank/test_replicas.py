"""What may part the codebooks of two ranks is found, also where no sum of bits would tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.errors import TrainingError
from seed_dist.models.quantizer import VectorQuantizer
from seed_dist.train.replicas import check_replicas
from tests.forked import values, world

pytestmark = pytest.mark.multirank


def _differences(comm: Comm) -> list[str]:
    """What the check says of equal ranks, and of each thing that rank 1 alone has otherwise."""
    said = []
    for plant in ("", "codes exchanged", "idle", "window", "rows of the window exchanged"):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(load_recipe("glyphs", ["codebook.usage_window_steps=4"]).codebook)
        for batch in range(3):
            quantizer.record_usage(torch.arange(9) + batch)
        statistics, weight = quantizer.usage_statistics, quantizer.embedding.weight.data
        if comm.rank == 1:
            if plant == "codes exchanged":
                weight[[3, 900]] = weight[[900, 3]]
            elif plant == "rows of the window exchanged":
                statistics.window[[0, 1]] = statistics.window[[1, 0]]
            elif plant:
                getattr(statistics, plant).view(-1)[5] += 1
        try:
            check_replicas(quantizer, comm)
            said.append("")
        except TrainingError as error:
            said.append(str(error))
    return said


def test_a_codebook_or_its_statistics_that_differ_on_one_rank_are_found(tmp_path: Path) -> None:
    (equal, exchanged, idle, window, rows), _ = values(world(_differences, 2, tmp_path))
    assert equal == ""
    assert "1 tensor(s), embedding.weight first" in exchanged
    assert "1 tensor(s), usage_statistics.idle first" in idle
    assert "1 tensor(s), usage_statistics.window first" in window
    assert "1 tensor(s), usage_statistics.window first" in rows
