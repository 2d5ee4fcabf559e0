"""A plan beside what a run really did, and shares of the peak from short runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seed_dist.errors import ConfigError
from seed_dist.plan.measured import MeasuredRun, read_run, share_of_peak
from seed_dist.plan.planner import make_plan
from seed_dist.plan.request import Cluster, Range, Request, checked_backbones
from seed_dist.plan.stage import micro_batch_flops
from seed_dist.plan.storage import SHARD_SAMPLES, features, stage_targets


@dataclass(frozen=True)
class Row:
    """One quantity: `planned` low and high, equal where it is no range."""

    quantity: str
    unit: str
    planned: Range
    actual: float


def request_of(run: MeasuredRun, cluster: Cluster) -> Request:
    """The run's own stage as a request, on as many ranks as it had."""
    if run.world_size % cluster.nodes:
        raise ConfigError([f"{run.folder} ran on {run.world_size} ranks, which --nodes {cluster.nodes} do not share"])
    sized = replace(cluster, gpus=run.world_size // cluster.nodes)
    return Request(run.recipe, sized, stages=(run.stage,))


def measured_shares(folders: Sequence[Path], cluster: Cluster) -> dict[str, Range]:
    """Share of the peak by stage; the runs may be of another size than what is planned, on the same hardware."""
    shares: dict[str, Range] = {}
    for folder in folders:
        run = read_run(folder)
        request = request_of(run, replace(cluster, nodes=1))
        backbones = checked_backbones(request)
        parts = micro_batch_flops(request, backbones, run.stage).values()
        flops = run.recipe.training(run.stage).accumulation * sum(part.both for part in parts)
        shares[run.stage] = share_of_peak(run, flops, request.peak_flops)
    return shares


def compare(run: MeasuredRun, request: Request) -> list[Row]:
    """Plan and reality of the run's stage. What the run left no trace of has no row."""
    found = run.feature_sets(stage_targets(request.recipe, run.stage))
    samples = {split: count for (_, split), (count, _) in found.items()}
    request = replace(request, pairs=sum(samples.values()) or request.pairs)
    plan = make_plan(request)
    stage, backbones = plan.stages[0], checked_backbones(request)
    sets = features(request.recipe, backbones.image, backbones.generation, request.feature_dtype)
    batch = request.recipe.training(run.stage).global_batch
    rows = [
        Row("step", "s", stage.step_s, run.median_step_s),
        Row("samples", "samples/s", stage.samples_per_s, batch / run.median_step_s),
    ]
    for (target, split), (count, size) in found.items():
        planned = float(sets[target].set_bytes(count, SHARD_SAMPLES))
        rows.append(Row(f"features {target}, {split}", "B", (planned, planned), size))
    if run.checkpoint_bytes is not None:
        planned = float(stage.checkpoints.bytes)
        rows.append(Row("checkpoint", "B", (planned, planned), run.checkpoint_bytes))
    if run.peak_memory_bytes is not None:
        planned = float(sum(stage.memory_bytes.values()) * request.cluster.ranks)
        rows.append(Row("memory, all ranks (actual: with Python and libraries)", "B", (planned, planned),
                        run.peak_memory_bytes))  # fmt: skip
    return rows
