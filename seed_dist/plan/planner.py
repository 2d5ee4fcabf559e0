"""The whole plan: features, their encoding, the stages, the ways to feed them; and the same over sizes of data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from seed_dist.config import STAGES, Recipe, StageName
from seed_dist.plan.alternatives import Alternative, alternatives
from seed_dist.plan.encoding import EncodePlan, plan_encoding
from seed_dist.plan.request import Range, Request, assumptions, checked_backbones
from seed_dist.plan.stage import StagePlan, plan_stage
from seed_dist.plan.storage import SHARD_SAMPLES, features, index_bytes

FORMAT = 1  # of the JSON; it changes when a key changes its name or meaning


@dataclass(frozen=True)
class Plan:
    """Everything that the command prints; `as_dict` is its JSON."""

    recipe: str
    hardware: str
    precision: str
    nodes: int
    gpus: int
    ranks: int
    pairs: int
    views: int
    shards: int
    shards_per_rank: float
    index_bytes: int
    gpu_memory_bytes: int
    network_bytes_s: float
    storage_bytes_s: float
    wall_limit_hours: float
    encoding: list[EncodePlan]
    stages: list[StagePlan]
    alternatives: list[Alternative]
    assumptions: list[dict[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; operations as {forward, backward}."""
        values = dataclasses.asdict(self)
        for stage, planned in zip(values["stages"], self.stages, strict=True):
            stage["flops_per_sample"] = {name: part._asdict() for name, part in planned.flops_per_sample.items()}
        return {"format": FORMAT, **values}


def make_plan(request: Request) -> Plan:
    """ConfigError with all problems of the request at once."""
    backbones, cluster = checked_backbones(request), request.cluster
    sets = features(request.recipe, backbones.image, backbones.generation, request.feature_dtype)
    shards = -(-request.pairs // SHARD_SAMPLES)
    return Plan(
        recipe=request.recipe.name,
        hardware=cluster.hardware.name,
        precision=request.precision,
        nodes=cluster.nodes,
        gpus=cluster.gpus,
        ranks=cluster.ranks,
        pairs=request.pairs,
        views=request.views,
        shards=shards,
        shards_per_rank=shards / cluster.ranks,
        index_bytes=index_bytes(request.pairs, request.caption_bytes),
        gpu_memory_bytes=cluster.hardware.memory_bytes,
        network_bytes_s=cluster.network_bytes_s,
        storage_bytes_s=cluster.storage_bytes_s,
        wall_limit_hours=cluster.wall_limit_hours,
        encoding=plan_encoding(request, backbones, sets),
        stages=[plan_stage(request, backbones, sets, stage) for stage in request.stages],
        alternatives=alternatives(request, backbones, sets),
        assumptions=assumptions(request),
    )


@dataclass(frozen=True)
class Scale:
    """One size of data: everything encoded once, and one pass of each stage over it."""

    pairs: int
    patches_bytes: int
    causal_bytes: int
    index_bytes: int
    encode_gpu_hours: Range | None
    pass_hours: dict[StageName, Range]


def make_scale(request: Request, pairs: int) -> Scale:
    """`request` with so many pairs, and as many steps as one pass over them takes."""
    plan = make_plan(replace(request, recipe=_one_pass(request.recipe, pairs), pairs=pairs))
    sizes = {part.target: part.set_bytes for part in plan.encoding}
    hours = [part.gpu_hours for part in plan.encoding if part.gpu_hours is not None]
    total = (sum(low for low, _ in hours), sum(high for _, high in hours)) if len(hours) == len(sizes) else None
    passes = {stage.stage: stage.hours for stage in plan.stages}
    return Scale(pairs, sizes["patches"], sizes["causal"], plan.index_bytes, total, passes)


def _one_pass(recipe: Recipe, pairs: int) -> Recipe:
    changed = {}
    for stage in STAGES:
        training = recipe.training(stage)
        changed[f"{stage}_training"] = replace(training, steps=-(-pairs // training.global_batch), warmup_steps=0)
    return replace(recipe, **changed)  # type: ignore[arg-type]
