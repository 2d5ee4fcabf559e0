"""The plan of one training stage: every formula of this folder on one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seed_dist.config import StageName
from seed_dist.mixture import CYCLE
from seed_dist.plan import activations, memory, network, parameters, stage_flops
from seed_dist.plan.flops import Flops
from seed_dist.plan.intervals import daly, lost_share, requeues, young
from seed_dist.plan.request import Backbones, Range, Request
from seed_dist.plan.step_time import StepTime, step_time
from seed_dist.plan.storage import Feature, stage_targets


@dataclass(frozen=True)
class Checkpoints:
    """`bytes` of one, `kept_bytes` of all while another is written. Seconds between saves: the recipe's at the fast and
    the slow end, and the best after Young and after Daly; `lost_share` of the time with the latter. All as if training
    waited for a save, which writes in the background: an upper bound of what one costs and of the best interval."""

    bytes: int
    kept_bytes: int
    save_s: float
    recipe_interval_s: Range
    young_interval_s: float
    daly_interval_s: float
    daly_steps: tuple[int, int]
    lost_share: float


@dataclass(frozen=True)
class StagePlan:
    """One stage. Ranges are (low, high); bytes and seconds are of one step where the name does not say otherwise."""

    stage: StageName
    steps: int
    samples: int
    passes: float
    passes_of: Mapping[str, float]  # by split of a mixture
    micro_batch: int
    negatives_per_anchor: int | None
    trained: Mapping[str, int]
    frozen: int
    flops_per_sample: Mapping[str, Flops]
    memory_bytes: Mapping[str, int]
    read_bytes_per_sample: int
    node_read_bytes_s: Range  # needed not to wait for the storage
    network_rank_bytes: int
    network_node_bytes: int
    node_network_bytes_s: Range  # needed not to wait for the network
    step_s: Range
    samples_per_s: Range
    limited_by: tuple[str, str]  # at the fast and at the slow end
    hours: Range
    gpu_hours: Range
    price: Range | None
    requeues: tuple[int, int]
    checkpoints: Checkpoints


def plan_stage(request: Request, backbones: Backbones, sets: Mapping[str, Feature], stage: StageName) -> StagePlan:
    """The plan of `stage` with the recipe's steps."""
    training, cluster = request.recipe.training(stage), request.cluster
    trained, frozen = _parameters(request, backbones, stage)
    count = sum(trained.values())
    step_flops = micro_batch_flops(request, backbones, stage)
    traffic = _traffic(request, stage, count)
    read_bytes = sum(sets[target].sample_bytes for target in stage_targets(request.recipe, stage))
    computed = training.accumulation * sum(part.both for part in step_flops.values())
    lasting = time_of(request, stage, computed, read_bytes, traffic)
    checkpoints = _checkpoints(request, stage, count, lasting.seconds)
    saving_s = training.steps / training.checkpoint_every * checkpoints.save_s
    hours = _scaled(lasting.seconds, training.steps / 3600, saving_s / 3600)
    gpu_hours = _scaled(hours, cluster.ranks)
    limit = cluster.wall_limit_hours
    batch = request.micro_batch(stage)
    return StagePlan(
        stage=stage,
        steps=training.steps,
        samples=training.steps * training.global_batch,
        passes=training.steps * training.global_batch / request.pairs,
        passes_of={split: training.steps * training.global_batch * request.recipe.data.counts[split] / CYCLE / pairs
                   for split, pairs in request.pairs_of.items()},
        micro_batch=batch,
        negatives_per_anchor=_negatives(request) if stage == "causal_qformer" else None,
        trained=trained,
        frozen=frozen,
        flops_per_sample={name: Flops(part.forward // batch, part.backward // batch)
                          for name, part in step_flops.items()},
        memory_bytes=_memory(request, backbones, stage, (count, frozen)),
        read_bytes_per_sample=read_bytes,
        node_read_bytes_s=_rate(training.global_batch * read_bytes / cluster.nodes, lasting.compute_s),
        network_rank_bytes=traffic.rank_bytes,
        network_node_bytes=traffic.node_bytes,
        node_network_bytes_s=_rate(traffic.node_bytes, lasting.compute_s),
        step_s=lasting.seconds,
        samples_per_s=_rate(training.global_batch, lasting.seconds),
        limited_by=lasting.limited_by,
        hours=hours,
        gpu_hours=gpu_hours,
        price=None if cluster.price_per_gpu_hour is None else _scaled(gpu_hours, cluster.price_per_gpu_hour),
        requeues=(requeues(hours[0], limit), requeues(hours[1], limit)),
        checkpoints=checkpoints,
    )  # fmt: skip


def micro_batch_flops(request: Request, backbones: Backbones, stage: StageName) -> dict[str, Flops]:
    """Operations of a rank's micro-batch, by module."""
    recipe, batch = request.recipe, request.micro_batch(stage)
    if stage == "causal_qformer":
        return stage_flops.causal_qformer(recipe.qformer, backbones.image.tokens, batch, request.cluster.ranks)
    if stage == "codebook":
        return stage_flops.codebook(recipe.codebook, recipe.qformer, batch)
    assert backbones.language is not None, "the language model's sizes"
    return stage_flops.lora(recipe.lora, recipe.codebook, recipe.qformer, backbones.language, batch)


def time_of(
    request: Request, stage: StageName, rank_flops: float, read_bytes: int, traffic: network.Traffic
) -> StepTime:
    """Of a step with `rank_flops` on each rank, that reads `read_bytes` for each sample."""
    cluster = request.cluster
    node_bytes = request.recipe.training(stage).global_batch * read_bytes / cluster.nodes
    moving_s = traffic.seconds(cluster.network_bytes_s, cluster.hardware.link_bytes_s)
    reading_s = node_bytes / cluster.storage_bytes_s
    return step_time(rank_flops, request.peak_flops, request.share(stage), moving_s, reading_s)


def _parameters(request: Request, backbones: Backbones, stage: StageName) -> tuple[dict[str, int], int]:
    """Trained, by module, and frozen ones that the stage holds."""
    recipe = request.recipe
    if stage == "causal_qformer":
        return parameters.causal_qformer(recipe.qformer), 0
    if stage == "codebook":
        return parameters.codebook(recipe.codebook, recipe.qformer), 0
    assert backbones.language is not None, "the language model's sizes"
    trained = parameters.lora(recipe.lora, recipe.codebook, backbones.language)
    return trained, parameters.language_base(backbones.language)


def _memory(request: Request, backbones: Backbones, stage: StageName, counts: tuple[int, int]) -> dict[str, int]:
    recipe, element, batch = request.recipe, request.element_bytes, request.micro_batch(stage)
    ranks = request.cluster.ranks
    if stage == "causal_qformer":
        kept = activations.causal_qformer(recipe.qformer, backbones.image.tokens, batch, ranks, element)
    elif stage == "codebook":
        kept = activations.codebook(recipe.codebook, recipe.qformer, batch, element)
    else:
        assert backbones.language is not None, "the language model's sizes"
        kept = activations.lora(recipe.lora, recipe.codebook, recipe.qformer, backbones.language, batch)
    states = memory.states(*counts, ranks, element, request.zero(stage))
    return {**states, "activations": sum(kept.values())}


def stage_traffic(request: Request, backbones: Backbones, stage: StageName) -> network.Traffic:
    """What the ranks send each other in a step."""
    return _traffic(request, stage, sum(_parameters(request, backbones, stage)[0].values()))


def _traffic(request: Request, stage: StageName, trained: int) -> network.Traffic:
    cluster, training = request.cluster, request.recipe.training(stage)
    factor = network.gradient_factor(request.zero(stage))
    trained_bytes = trained * request.element_bytes
    return network.zero2(trained_bytes, cluster.ranks, cluster.nodes, training.accumulation, factor)


def _checkpoints(request: Request, stage: StageName, trained: int, step_s: Range) -> Checkpoints:
    """Every rank writes its part, so the nodes share the writing. A new one is complete before an old one goes."""
    training, cluster = request.recipe.training(stage), request.cluster
    size = memory.checkpoint(trained)
    save_s = size / cluster.nodes / cluster.storage_bytes_s
    best = daly(save_s, cluster.mtbf_s)
    permanent = training.steps // training.permanent_every if training.permanent_every else 0
    return Checkpoints(
        bytes=size,
        kept_bytes=size * (training.keep_checkpoints + 1 + permanent),
        save_s=save_s,
        recipe_interval_s=_scaled(step_s, training.checkpoint_every),
        young_interval_s=young(save_s, cluster.mtbf_s),
        daly_interval_s=best,
        daly_steps=(max(1, int(best / step_s[1])), max(1, int(best / step_s[0]))),
        lost_share=lost_share(best, save_s, cluster.mtbf_s),
    )


def _negatives(request: Request) -> int:
    """Captions of the global batch that are not an image's own, and what the recipe adds to them."""
    texts = 2 if request.recipe.qformer.exchanged_negatives else 1
    return request.recipe.causal_qformer_training.global_batch * texts - 1


def _scaled(values: Range, factor: float, offset: float = 0.0) -> Range:
    return values[0] * factor + offset, values[1] * factor + offset


def _rate(amount: float, seconds: Range) -> Range:
    """Per second, at the slow and at the fast end."""
    return amount / seconds[1], amount / seconds[0]
