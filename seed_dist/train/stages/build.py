"""From a stage's name to its object."""

from __future__ import annotations

from pathlib import Path

from seed_dist.config import Recipe, StageName
from seed_dist.dist.comm import Comm
from seed_dist.train.data import StageData
from seed_dist.train.stages import EXPORT
from seed_dist.train.stages.base import Stage


def build_stage(recipe: Recipe, stage: StageName, work: Path, data: StageData, comm: Comm) -> Stage:
    """The stage with freshly initialised parameters. Imports only what this stage needs."""
    if stage == "causal_qformer":
        from seed_dist.train.stages.causal_qformer import CausalQFormerStage

        return CausalQFormerStage(recipe, data, comm)
    if stage == "codebook":
        from seed_dist.train.stages.codebook import CodebookStage

        return CodebookStage(recipe, data, comm, work / "causal_qformer" / EXPORT)
    from seed_dist.train.stages.lora import LoraStage

    return LoraStage(recipe, data, comm, work / "codebook" / EXPORT)
