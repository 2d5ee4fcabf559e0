"""One training step of both tokenizer stages of seed_v2 at its real size, on two samples of random features.

Stage 2 goes on from what stage 1 exports, as in a run. Times are of one thread.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed_dist.config import Recipe, StageName, load_recipe
from seed_dist.dist.comm import LocalComm
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.qformer import CausalQFormer
from seed_dist.train.data import open_data
from seed_dist.train.parameter_groups import parameter_groups
from seed_dist.train.stages.base import Stage
from seed_dist.train.stages.build import build_stage
from tests.features import write_features
from tests.memory import taking_at_most

pytestmark = pytest.mark.slow

GIB = 2**30
CAPTIONS = ("a red heart on black", "a blue star on white")
IDS = np.arange(2)
RECIPE = load_recipe("seed_v2", ["backbones.text_tokenizer=embedded:clip", "backbones.qformer=null"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Removed at once: an export of this size is 0.7 GiB."""
    folder = tmp_path_factory.mktemp("real_size")
    yield folder
    shutil.rmtree(folder)


def features(work: Path, target: str, *shape: int, weights: str = "none", scale: float = 1.0) -> None:
    for split in ("train", "val"):
        values = np.random.default_rng(0).standard_normal((2, *shape)) * scale
        write_features(work, split, target, values.astype(np.float16), CAPTIONS, weights)


def build(name: StageName, work: Path) -> Stage:
    torch.manual_seed(0)
    return build_stage(RECIPE, name, work, open_data(RECIPE, name, work), LocalComm())


def optimizer(stage: Stage, recipe: Recipe, name: StageName) -> torch.optim.AdamW:
    """As the engine is given it, at the peak learning rate."""
    training = recipe.training(name)
    groups = parameter_groups(stage, training.weight_decay, stage.without_decay)
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(groups, lr=training.lr, betas=betas, eps=training.eps, foreach=False)


def check_one_step(stage: Stage, name: StageName) -> dict[str, torch.Tensor]:
    """Forward, backward, update: the loss of the same batch falls, and every parameter has a gradient and moves."""
    batch = {k: v.float() if v.is_floating_point() else v for k, v in stage.make_batch(IDS, 0).items()}
    adam = optimizer(stage, RECIPE, name)
    before = loss_of(stage, batch)
    # The last rows: where a head has one query, queries and keys (the first rows of `qkv`) have no effect.
    marks = {key: parameter.detach().flatten()[-64:].clone() for key, parameter in stage.named_parameters()}
    loss, metrics = stage.train()(batch)
    loss.backward()
    assert [key for key, parameter in stage.named_parameters() if parameter.grad is None] == []
    norm = torch.stack([p.grad.norm() for p in stage.parameters() if p.grad is not None]).norm()
    assert torch.isfinite(loss)
    assert torch.isfinite(norm)
    assert norm > 0
    adam.step()
    assert [key for key, p in stage.named_parameters() if torch.equal(p.detach().flatten()[-64:], marks[key])] == []
    after = loss_of(stage, batch)
    assert np.isfinite(after)
    assert after < before, f"{before} became {after}"
    return metrics


@torch.no_grad()
def loss_of(stage: Stage, batch: dict[str, torch.Tensor]) -> float:
    """Without dropout."""
    return float(stage.eval()(batch)[0])


def release(stage: Any) -> None:
    for parameter in stage.parameters():
        parameter.grad = None
    gc.collect()


def test_both_stages_take_a_step_in_less_than_6_gib(work: Path) -> None:
    with taking_at_most(6 * GIB):
        take_a_step_of_both_stages(work)


def take_a_step_of_both_stages(work: Path) -> None:
    features(work, "patches", 257, RECIPE.qformer.vision_width)
    first = build("causal_qformer", work)
    check_one_step(first, "causal_qformer")
    release(first)
    first.export(work / "causal_qformer" / "export", {})
    del first

    qformer = CausalQFormer.from_pretrained(work / "causal_qformer" / "export")
    made_by = module_fingerprint(qformer, dataclasses.asdict(qformer.config))
    causal = qformer.embed_image(torch.from_numpy(open_data(RECIPE, "causal_qformer", work).train.read(IDS)["patches"]))
    assert causal.shape == (2, 32, 768)
    del qformer
    for split in ("train", "val"):
        write_features(work, split, "causal", causal.half().numpy(), CAPTIONS, made_by)
    features(work, "image_embedding", 1024)

    second = build("codebook", work)
    metrics = check_one_step(second, "codebook")
    assert metrics["reconstruction_weighted"] == 2 * metrics["reconstruction"]
    second.after_step(None, True)  # type: ignore[arg-type]  # only revival needs the engine, and nobody published it
    assert 0 < second.running_metrics()["codes_used_fraction"] <= 3 * 64 / 8192
