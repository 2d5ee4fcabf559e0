"""The tokenizer stages with frozen encoders in every step (as published) against cached features, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seed_dist.config import StageName
from seed_dist.plan.encoding import encoder_flops
from seed_dist.plan.request import Backbones, Range, Request
from seed_dist.plan.stage import micro_batch_flops, stage_traffic, time_of
from seed_dist.plan.storage import JPEG_BYTES, Feature, stage_targets


@dataclass(frozen=True)
class Alternative:
    """One way to feed a stage. `gpu_hours` hold the stage's steps and, where they are cached, making its features."""

    stage: StageName
    inputs: str
    flops_per_sample: int
    read_bytes_per_sample: int
    samples_per_s: Range
    limited_by: tuple[str, str]
    gpu_hours: Range


def alternatives(request: Request, backbones: Backbones, sets: Mapping[str, Feature]) -> list[Alternative]:
    """Nothing where the operations of an encoder are not known."""
    encoders = encoder_flops(request, backbones)
    target = request.recipe.codebook.generation_target
    if not all(encoders.values()):
        return []
    views = f", {request.views} view(s)"
    int8 = {"patches": replace(sets["patches"], dtype="int8")}
    fp16 = {**sets, "patches": replace(sets["patches"], dtype="fp16")}
    first, second = encoders["patches"], encoders["patches"] + encoders["causal"] + encoders[target]
    rows: list[tuple[StageName, str, int, bool, Mapping[str, Feature]]] = [
        ("causal_qformer", "online", first, True, {}),
        ("causal_qformer", f"cached fp16{views}", first, False, fp16),
        ("causal_qformer", f"cached int8{views}", first, False, int8),
        ("codebook", "online", second, True, {}),
        ("codebook", f"cached fp16{views}", second, False, fp16),
    ]
    return [
        _alternative(request, backbones, stage, (inputs, encoding, online), features)
        for stage, inputs, encoding, online, features in rows
        if stage in request.stages
    ]


def _alternative(
    request: Request,
    backbones: Backbones,
    stage: StageName,
    way: tuple[str, int, bool],
    features: Mapping[str, Feature],
) -> Alternative:
    inputs, encoding, online = way
    training, ranks = request.recipe.training(stage), request.cluster.ranks
    batch = request.micro_batch(stage)
    flops = sum(part.both for part in micro_batch_flops(request, backbones, stage).values()) // batch
    flops += encoding if online else 0
    targets = stage_targets(request.recipe, stage)
    read = JPEG_BYTES if online else sum(features[target].sample_bytes for target in targets)
    traffic = stage_traffic(request, backbones, stage)
    lasting = time_of(request, stage, flops * batch * training.accumulation, read, traffic)
    fast, slow = lasting.seconds
    once = 0 if online else encoding * request.pairs * request.views
    low, high = request.share("encode")
    return Alternative(
        stage, inputs, flops, read,
        (training.global_batch / slow / ranks, training.global_batch / fast / ranks), lasting.limited_by,
        ((fast * training.steps * ranks + once / request.peak_flops / high) / 3600,
         (slow * training.steps * ranks + once / request.peak_flops / low) / 3600),
    )  # fmt: skip
