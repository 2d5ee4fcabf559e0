"""What the frozen encoders take, once for all features: on one GPU, as `slurm/encode.sbatch` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seed_dist.plan import stage_flops
from seed_dist.plan.flops import add, linear
from seed_dist.plan.request import Backbones, Range, Request
from seed_dist.plan.step_time import step_time
from seed_dist.plan.storage import JPEG_BYTES, Feature

_BATCH = 256  # of data_prep/encode.py


@dataclass(frozen=True)
class EncodePlan:
    """One target. `flops_per_sample` 0 and no hours: the operations of that encoder are not known."""

    target: str
    flops_per_sample: int
    set_bytes: int
    gpu_hours: Range | None
    limited_by: tuple[str, str] | None


def plan_encoding(request: Request, backbones: Backbones, sets: Mapping[str, Feature]) -> list[EncodePlan]:
    """All targets of the recipe in order."""
    operations = encoder_flops(request, backbones)
    return [_plan(request, feature, operations[target], sets) for target, feature in sets.items()]


def encoder_flops(request: Request, backbones: Backbones) -> dict[str, int]:
    """The forward pass of one sample for each target."""
    q, c = request.recipe.qformer, request.recipe.codebook
    queries = stage_flops.image_queries(q, backbones.image.tokens, training=False)
    rows = _BATCH * q.queries
    codes = [
        linear(rows, q.width, q.width), linear(rows, q.width, c.width), stage_flops.nearest_codes(c, rows),
    ]  # fmt: skip
    return {
        "patches": stage_flops.tower(backbones.image),
        c.generation_target: stage_flops.tower(backbones.generation),
        "causal": stage_flops.query_encoder(_BATCH, queries).forward // _BATCH,
        "codes": add(codes).forward // _BATCH,
    }


def stored_views(request: Request, target: str) -> int:
    """Views of an image that are stored; captions and the codes that the language model learns have one."""
    return request.views if target in ("patches", "causal", "image_embedding") else 1


def _plan(request: Request, feature: Feature, flops: int, sets: Mapping[str, Feature]) -> EncodePlan:
    samples = request.pairs * stored_views(request, feature.target)
    set_bytes = feature.set_bytes(samples)
    if not flops:
        return EncodePlan(feature.target, 0, set_bytes, None, None)
    source = {"causal": "patches", "codes": "causal"}.get(feature.target)
    moved = feature.sample_bytes + (sets[source].sample_bytes if source else JPEG_BYTES)
    lasting = step_time(
        flops, request.peak_flops, request.share("encode"), 0.0, moved / request.cluster.storage_bytes_s
    )
    fast, slow = (seconds * samples / 3600 for seconds in lasting.seconds)
    return EncodePlan(feature.target, flops, set_bytes, (fast, slow), lasting.limited_by)
