"""The whole plan: known anchors, how it moves with its inputs, the JSON's keys."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from seed_dist.config import STAGES, load_recipe
from seed_dist.errors import ConfigError
from seed_dist.plan.hardware import hardware_names, load_hardware
from seed_dist.plan.planner import make_plan, make_scale
from seed_dist.plan.request import Cluster, Request

V100 = load_hardware("v100")


def request(name: str = "seed_v2", nodes: int = 8, **changes: Any) -> Request:
    cluster = {key: changes.pop(key) for key in list(changes) if key in {f.name for f in dataclasses.fields(Cluster)}}
    return Request(load_recipe(name), Cluster(nodes, 8, **{"hardware": V100, **cluster}), **changes)


def test_known_answers() -> None:
    """At 40 % of a V100: ViT-g over 5 M pictures 14.5 h, CLIP ViT-H 9.3 h; a 10 Gbit/s storage holds stage 1 at 216
    samples/s per GPU."""
    plan = make_plan(request(share_of_peak=(0.4, 0.4)))
    hours = {part.target: part.gpu_hours for part in plan.encoding}
    assert hours["patches"] == pytest.approx((14.5, 14.5), abs=0.05)
    assert hours["image_embedding"] == pytest.approx((9.3, 9.3), abs=0.05)
    first, second, _ = plan.stages
    assert first.limited_by == ("storage", "storage")
    assert first.samples_per_s[1] / plan.ranks == pytest.approx(216, rel=0.01)
    assert first.node_read_bytes_s[1] == pytest.approx(
        8 * 50e12 / sum(part.both for part in first.flops_per_sample.values()) * first.read_bytes_per_sample, rel=0.01
    )
    assert (first.passes, first.negatives_per_anchor) == (pytest.approx(40.96), 4095)
    assert sum(second.trained.values()) == 91_524_928
    assert sum(first.trained.values()) == 186_081_281


def test_caching_pays_in_computing() -> None:
    plan = make_plan(request(storage_gbit=10_000.0, network_gbit=10_000.0))
    ways = {(way.stage, way.inputs.split(",")[0]): way for way in plan.alternatives}
    first, second = ((ways[stage, "online"], ways[stage, "cached fp16"]) for stage in ("causal_qformer", "codebook"))
    assert first[0].flops_per_sample / first[1].flops_per_sample > 10
    assert second[0].flops_per_sample / second[1].flops_per_sample > 70
    assert first[0].gpu_hours[0] > 5 * first[1].gpu_hours[0]


def test_linear_in_pairs() -> None:
    small, large = (make_scale(request(), pairs) for pairs in (4_096_000, 40_960_000))
    for key in ("patches_bytes", "causal_bytes", "index_bytes"):
        assert getattr(large, key) == pytest.approx(10 * getattr(small, key), rel=1e-3)
    assert large.encode_gpu_hours == pytest.approx([10 * hours for hours in small.encode_gpu_hours or ()], rel=1e-6)
    for stage in STAGES:
        assert large.pass_hours[stage] == pytest.approx(  # type: ignore[index]
            [10 * hours for hours in small.pass_hours[stage]],
            rel=0.01,  # type: ignore[index]
        )


def test_more_nodes_take_less_time_and_memory() -> None:
    plans = [make_plan(request(nodes=nodes)) for nodes in (1, 2, 4, 8)]
    for number in range(len(STAGES)):
        stages = [plan.stages[number] for plan in plans]
        for values in ([s.hours[0] for s in stages], [sum(s.memory_bytes.values()) for s in stages]):
            assert values == sorted(values, reverse=True)
        assert len({s.samples for s in stages}) == 1


@pytest.mark.parametrize("name", ["seed_v1", "seed_v2", "glyphs"])
@pytest.mark.parametrize("hardware", hardware_names())
def test_ranges_are_ranges(name: str, hardware: str) -> None:
    plan = make_plan(request(name, hardware=load_hardware(hardware), price_per_gpu_hour=2.0))
    for stage in plan.stages:
        assert stage.price is not None
        ranges = (stage.hours, stage.gpu_hours, stage.price, stage.step_s, stage.samples_per_s, stage.requeues,
                  stage.node_read_bytes_s, stage.checkpoints.daly_steps)  # fmt: skip
        assert all(0 <= low <= high for low, high in ranges)
        assert stage.gpu_hours[0] == pytest.approx(stage.hours[0] * plan.ranks)
        assert stage.price[1] == pytest.approx(2 * stage.gpu_hours[1])


def test_a_better_share_is_never_slower_and_views_cost_bytes() -> None:
    plain = make_plan(request())
    better = make_plan(request(share_of_peak=(0.3, 0.6)))
    measured = make_plan(request(shares={"lora": (0.5, 0.5)}))
    assert all(b.hours <= p.hours for b, p in zip(better.stages, plain.stages, strict=True))
    assert measured.stages[2].hours < plain.stages[2].hours
    assert measured.stages[0].hours == plain.stages[0].hours
    views, int8 = make_plan(request(views=4)), make_plan(request(feature_dtype="int8"))
    assert views.encoding[0].set_bytes == pytest.approx(4 * plain.encoding[0].set_bytes, rel=1e-4)
    assert int8.encoding[0].set_bytes == pytest.approx(plain.encoding[0].set_bytes / 2, rel=0.01)
    assert int8.stages[0].hours < plain.stages[0].hours


def test_json_has_these_keys() -> None:
    """A key that changes its name or meaning needs another FORMAT."""
    values = make_plan(request()).as_dict()
    assert values["format"] == 1
    assert set(values) == {
        "format", "recipe", "hardware", "precision", "nodes", "gpus", "ranks", "pairs", "views", "shards",
        "shards_per_rank", "index_bytes", "gpu_memory_bytes", "network_bytes_s", "storage_bytes_s", "wall_limit_hours",
        "encoding", "stages", "alternatives", "assumptions",
    }  # fmt: skip
    assert set(values["stages"][0]) == {
        "stage", "steps", "samples", "passes", "passes_of", "micro_batch", "negatives_per_anchor", "trained", "frozen",
        "flops_per_sample", "memory_bytes", "read_bytes_per_sample", "node_read_bytes_s", "network_rank_bytes",
        "network_node_bytes", "node_network_bytes_s", "step_s", "samples_per_s", "limited_by", "hours", "gpu_hours",
        "price", "requeues", "checkpoints",
    }  # fmt: skip
    assert values["stages"][0]["flops_per_sample"]["image path"].keys() == {"forward", "backward"}
    assert all(set(item) == {"what", "value", "source"} and item["source"] for item in values["assumptions"])


def test_all_problems_at_once() -> None:
    recipe = load_recipe("seed_v2", ["backbones.language_model=nowhere", "backbones.image_encoder=neither"])
    asked = replace(request(nodes=9999), recipe=recipe)
    with pytest.raises(ConfigError) as caught:
        make_plan(asked)
    text = str(caught.value)
    assert "backbones.language_model 'nowhere'" in text
    assert "backbones.image_encoder 'neither'" in text
    assert "79992 ranks cannot share" in text
