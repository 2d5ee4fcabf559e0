"""What is planned: a recipe, the machines for it, and what is assumed about both, each assumption with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from seed_dist.config import STAGES, Recipe, StageName
from seed_dist.dist.ds_config import Precision, fitted_training, load_ds_config, resolve_precision
from seed_dist.errors import ConfigError
from seed_dist.plan.backbones import LanguageModel, Tower, language_model, tower
from seed_dist.plan.hardware import Hardware

Range = tuple[float, float]  # low and high
ELEMENT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
_GBIT_BYTES = 1e9 / 8


@dataclass(frozen=True)
class Cluster:
    """`nodes` of `gpus` each; `network_gbit` and `storage_gbit` per node, in one direction."""

    nodes: int
    gpus: int
    hardware: Hardware
    network_gbit: float = 100.0
    storage_gbit: float = 10.0
    wall_limit_hours: float = 24.0
    node_mtbf_hours: float = 6300.0
    price_per_gpu_hour: float | None = None

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def network_bytes_s(self) -> float:
        return self.network_gbit * _GBIT_BYTES

    @property
    def storage_bytes_s(self) -> float:
        return self.storage_gbit * _GBIT_BYTES

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures of any of the nodes."""
        return self.node_mtbf_hours * 3600 / self.nodes


@dataclass(frozen=True)
class Request:
    """`shares`: share of the peak by stage, where it was measured; elsewhere `share_of_peak`, or the hardware's.
    `pairs_of`: pairs of each split of a mixture, where they are known; `pairs` are all of them.
    """

    recipe: Recipe
    cluster: Cluster
    pairs: int = 5_000_000
    pairs_of: Mapping[str, int] = field(default_factory=dict)
    views: int = 1
    feature_dtype: str = "fp16"
    caption_bytes: int = 60
    share_of_peak: Range | None = None
    shares: Mapping[str, Range] = field(default_factory=dict)
    stages: tuple[StageName, ...] = STAGES

    @property
    def precision(self) -> Precision:
        return resolve_precision(self.recipe.engine.precision, self.cluster.hardware.compute_capability)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.precision]

    @property
    def peak_flops(self) -> float:
        """Of one GPU in the precision that the engine chooses for it."""
        return self.cluster.hardware.peak_flops[self.precision]

    def calibrated(self, share_of_peak: Range | None, shares: Mapping[str, Range]) -> Request:
        """The same with these shares of the peak."""
        return replace(self, share_of_peak=share_of_peak, shares=shares)

    def share(self, stage: str) -> Range:
        return self.shares.get(stage) or self.share_of_peak or self.cluster.hardware.share_of_peak

    def zero(self, stage: StageName) -> dict[str, Any]:
        """DeepSpeed's `zero_optimization`, as the engine is given it."""
        training = self.recipe.training(stage)
        config = load_ds_config(self.recipe.engine, training, self.precision, self.cluster.ranks)
        return dict(config["zero_optimization"])

    def micro_batch(self, stage: StageName) -> int:
        """Samples of a rank in one micro-batch."""
        training = self.recipe.training(stage)
        return -(-training.micro_batch // self.cluster.ranks)  # of the one that has most


@dataclass(frozen=True)
class Backbones:
    """Sizes of the frozen models."""

    image: Tower
    generation: Tower
    language: LanguageModel | None  # None where stage 3 is not planned


def checked_backbones(request: Request) -> Backbones:
    """The sizes of what the recipe names; ConfigError with everything that keeps the request from being planned."""
    names = request.recipe.backbones
    problems: list[str] = []
    found: list[Any] = []
    wanted: list[Any] = [
        lambda: tower(names.image_encoder, "image_encoder"),
        lambda: tower(names.generation_encoder, "generation_encoder"),
    ]
    if "lora" in request.stages:
        wanted.append(lambda: language_model(names.language_model))
    checks: list[Any] = [*wanted, lambda: _check_precision(request)]
    for stage in request.stages:
        training = request.recipe.training(stage)
        checks.append(lambda s=stage, t=training: fitted_training(f"{s}_training", t, request.cluster.ranks))
    for check in checks:
        try:
            found.append(check())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Backbones(found[0], found[1], found[2] if "lora" in request.stages else None)


def _check_precision(request: Request) -> None:
    hardware = request.cluster.hardware
    if request.precision not in hardware.peak_flops:
        problem = f"{hardware.name} has no peak for {request.precision}; it has {', '.join(hardware.peak_flops)}"
        raise ConfigError([f"{problem}: set engine.precision, or add it to the hardware's file"])
    for stage in request.stages:
        request.zero(stage)


def assumptions(request: Request) -> list[dict[str, str]]:
    """What the plan takes for granted, and where it is from."""
    hardware, cluster = request.cluster.hardware, request.cluster
    low, high = request.share_of_peak or hardware.share_of_peak
    stated = "--share-of-peak" if request.share_of_peak else hardware.sources.get("share_of_peak", "the hardware file")
    rows = [
        ("peak", f"{request.peak_flops / 1e12:g} TFLOP/s in {request.precision}",
         hardware.sources.get("peak_flops", "the hardware file")),
        ("share of peak", f"{low:.2g} to {high:.2g}", stated),
        *(("share of peak, " + stage, f"{a:.2g} to {b:.2g}", "--measure") for stage, (a, b) in request.shares.items()),
        ("network", f"{cluster.network_gbit:g} Gbit/s per node", "--network-gbit"),
        ("storage", f"{cluster.storage_gbit:g} Gbit/s per node, nothing kept in memory", "--storage-gbit"),
        ("node failures", f"one per {cluster.node_mtbf_hours:g} h and node",
         "--mtbf; default: 419 interruptions of 2,048 nodes in 54 days (Llama 3, arXiv 2407.21783)"),
        ("captions", f"{request.caption_bytes} bytes; batches padded to the longest that the recipe allows",
         "--caption-bytes; upper bound"),
        ("overlap", "the fast end hides the network behind computing, the slow end does not", "this plan"),
        ("GPU memory", "without the CUDA context and buffers inside a layer: leave a tenth free", "this plan"),
        ("left out", "validation, starting up, the queue; decoding and augmenting on the CPU when online", "this plan"),
    ]  # fmt: skip
    if request.views > 1:
        rows.append(("views", f"{request.views} per image", "--views; encode with --views, train with --set views=K"))
    if request.feature_dtype == "int8":
        rows.append(("patches in int8", "with an fp16 scale per token", "--feature-dtype; encode with --dtype int8"))
    return [dict(zip(("what", "value", "source"), row, strict=True)) for row in rows]
