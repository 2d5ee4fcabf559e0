"""Stage 2: codebook and both decoders, from cached causal embeddings and cached generation targets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.config import Recipe, Remedy
from seed_dist.data.reader import Buffers
from seed_dist.dist.comm import Comm, gather_rows
from seed_dist.dist.engine import Engine
from seed_dist.errors import MismatchError
from seed_dist.losses import codebook_losses
from seed_dist.models.code_spacing import spacing_of
from seed_dist.models.code_usage import Usage, usage_of
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import CODEBOOK_PARAMETER, SeedQuantizer
from seed_dist.order import permute
from seed_dist.train.data import StageData
from seed_dist.train.stages.base import Ids, Stage, check_made_by
from seed_dist.train.state import coins, derived_seed

_KMEANS_VECTORS_PER_CODE = 32
_REVIVAL_CANDIDATES = 2048  # vectors that each rank offers at most
# Of the size of the codebook. Trained ones of this project lie above a tenth, published ones above a quarter.
_COLLAPSED_SHARE = 0.02
_DEAD_WINDOWS = 10  # a code that was not used for so many windows of usage counts as dead
# A collapse doubles the weight of the commitment term as often at most. (Its size matters little between 0.1 and 2:
# van den Oord et al. 2017, section 3.2; much more than the published weight would keep the encoder from moving.)
_MOST_DOUBLINGS, _DOUBLINGS = 4, "commitment_doublings"


class CodebookStage(Stage):
    """Trains `model`; its usage statistics are buffers, so they are in every checkpoint."""

    validation_batch = 256

    def __init__(self, recipe: Recipe, data: StageData, comm: Comm, qformer_export: Path) -> None:
        super().__init__(recipe, data, comm, recipe.codebook_training.micro_batch)
        self._target = recipe.codebook.generation_target
        _check(recipe, data)
        self._qformer_export = qformer_export
        check_made_by(CausalQFormer.from_pretrained(qformer_export), data, "causal")
        self.model = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
        if not recipe.codebook.weight_decay_on_codes:
            self.without_decay = (f"model.{CODEBOOK_PARAMETER}",)
        self._codes: list[Tensor] = []  # of the step's micro-batches, until `after_step`
        self._causal: Tensor | None = None  # the last micro-batch

    @property
    def validation_samples(self) -> int:
        return self.recipe.codebook_training.validation_samples

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model(batch["causal"], batch.get("kept"))
        factor = 2.0 ** self.memory.get(_DOUBLINGS, 0)
        losses = codebook_losses(output, batch["causal"], batch["target"], self.recipe.codebook, factor)
        losses = {name: self.share(value) for name, value in losses.items()}
        self._codes.append(output.quantized.codes.detach())
        self._causal = batch["causal"]
        return losses.pop("loss"), {name: value.detach().float() for name, value in losses.items()} | self._weighted(
            losses
        )

    def make_batch(self, ids: Ids, step: int, out: Buffers | None = None) -> dict[str, Tensor]:
        features = self.data.train.read(ids, out, self.drawn_views(ids, step))
        batch = {"causal": torch.from_numpy(features["causal"]), "target": torch.from_numpy(features[self._target])}
        return {**batch, **self._kept(ids, step)}

    def prepare(self) -> None:
        """Encode MLP from a whitening, codebook from k-means, if the recipe says so; equal on all ranks."""
        codebook = self.recipe.codebook
        if not (codebook.whiten_init or codebook.kmeans_init):
            return
        wanted = -(-_KMEANS_VECTORS_PER_CODE * codebook.size // self.recipe.qformer.queries)
        samples = len(self.data.train)
        ids = permute(np.arange(min(wanted, samples)), samples, self.recipe.seed)
        causal = torch.from_numpy(self.data.train.read(ids)["causal"])
        if codebook.whiten_init:
            self.model.whiten_from(causal)
        if codebook.kmeans_init:
            with torch.no_grad():
                vectors = self.model.encode_vectors(causal)
            self.model.quantizer.initialise_from(vectors.flatten(0, 1), self.recipe.seed)

    def after_step(self, engine: Engine, applied: bool) -> None:
        """Count the global batch's codes; re-draw codes that were idle for too long, in the fp32 master too."""
        codes, self._codes = self._codes, []
        if not applied:
            return
        quantizer = self.model.quantizer
        quantizer.record_usage(torch.cat(codes), self.comm.sum)
        after = self.recipe.codebook.revive_after_steps
        if after == 0 or not bool((quantizer.usage_statistics.idle >= after).any()):
            return  # the counts are global, so all ranks decide alike
        self._revive(engine, after)

    def running_metrics(self) -> dict[str, float]:
        """Usage over the last `usage_window_steps` global batches; for how many steps codes were not used."""
        statistics = self.model.quantizer.usage_statistics
        usage, ages = statistics.usage(), statistics.ages(_DEAD_WINDOWS * self.recipe.codebook.usage_window_steps)
        return {
            "codes_used_fraction": usage.used_fraction,
            "codes_perplexity": usage.perplexity,
            "codes_age_median": ages.median,
            "codes_age_p90": ages.p90,
            "codes_age_oldest": float(ages.oldest),
            "codes_dead": float(ages.dead),
        }

    def alarm(self) -> str | None:
        """A collapse: over a whole window of steps hardly any code is used."""
        codebook, usage = self.recipe.codebook, self.model.quantizer.usage()
        if int(self.model.quantizer.usage_statistics.steps) < codebook.usage_window_steps or not self._is_low(usage):
            return None
        remedy = (
            "raise entropy_loss_weight or lower the learning rate"
            if codebook.revive_after_steps
            else "set revive_after_steps"
        )
        return (
            f"the codebook has collapsed: over the last {codebook.usage_window_steps} steps the perplexity of codes "
            f"is {usage.perplexity:.1f} of {codebook.size}. In the section codebook of the recipe, {remedy}."
        )

    def collapsed(self) -> Usage | None:
        """Once per window, at its end: then every answer is about other batches, and none depends on what is logged."""
        steps, window = int(self.model.quantizer.usage_statistics.steps), self.recipe.codebook.usage_window_steps
        if steps == 0 or steps % window:
            return None
        usage = self.model.quantizer.usage()
        return usage if self._is_low(usage) else None

    def remedy(self, engine: Engine, remedy: Remedy) -> dict[str, float]:
        """`revive`: draw all codes anew that the window never used. `raise_commitment`: double that term's weight."""
        if remedy == "revive":
            return {"codes_revived": float(self._revive(engine, self.recipe.codebook.usage_window_steps))}
        if remedy == "raise_commitment":
            doublings = min(_MOST_DOUBLINGS, self.memory.get(_DOUBLINGS, 0) + 1)
            self.memory[_DOUBLINGS] = doublings
            return {"commitment_weight": self.recipe.codebook.commitment_weight * 2.0**doublings}
        return {}

    def validate(self, batches: Iterable[Ids]) -> dict[str, float]:
        """Mean cosines of recovered causal and generation embeddings; use of the codes over the validation samples,
        and how far codes lie from their nearest other one."""
        sums = torch.zeros(3, dtype=torch.float64)  # over samples: reconstruction cosine, generation cosine, 1
        counts = torch.zeros(self.recipe.codebook.size, dtype=torch.int64)
        for ids in batches:
            features = self.data.val.read(ids)
            causal, target = (torch.from_numpy(features[k]).to(self.comm.device) for k in ("causal", self._target))
            output = self.model(causal)
            reconstruction = F.cosine_similarity(output.reconstructed.float(), causal.float(), dim=-1)
            generation = F.cosine_similarity(output.generation.float(), target.float(), dim=-1)
            means = float(reconstruction.mean()), float(generation.mean())
            sums += torch.tensor([*means, 1.0], dtype=torch.float64) * len(causal)
            counts += torch.bincount(output.quantized.codes.flatten().cpu(), minlength=len(counts))
        parts = self.comm.gather_objects((sums, counts))
        total = torch.stack([part[0] for part in parts]).sum(0)
        usage = usage_of(torch.stack([part[1] for part in parts]).sum(0))
        spacing = spacing_of(self.model.quantizer.code_vectors())
        return {
            "reconstruction_cosine": float(total[0] / total[2]),
            "generation_cosine": float(total[1] / total[2]),
            "codes_used_fraction": usage.used_fraction,
            "codes_perplexity": usage.perplexity,
            "codes_nearest_p5": spacing.p5,
            "codes_nearest_median": spacing.median,
            "codes_nearest_p95": spacing.p95,
            "codes_near_duplicates": float(spacing.near_duplicates),
            "validation_samples": float(total[2]),
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """The whole tokenizer: this stage's modules and stage 1's Q-Former."""
        qformer = CausalQFormer.from_pretrained(self._qformer_export)
        tokenizer = SeedTokenizer(qformer, self.model.cpu(), self.recipe.backbones, provenance)
        tokenizer.save_pretrained(folder)

    def _weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms as they enter the loss."""
        codebook = self.recipe.codebook
        weights = {
            "quantizer": codebook.quantizer_loss_weight,
            "reconstruction": codebook.reconstruction_loss_weight,
            "generation": codebook.generation_loss_weight,
        }
        return {f"{name}_weighted": losses[name].detach().float() * weight for name, weight in weights.items()}

    def _kept(self, ids: Ids, step: int) -> dict[str, Tensor]:
        """`kept` int64 [B]: how many codes each sample's decoders see. Nothing where all see all, as published."""
        share, queries = self.recipe.codebook.prefix_masking, self.recipe.qformer.queries
        if share == 0:
            return {}
        is_masked = coins(ids, derived_seed(self.recipe.seed, "prefix masked", step)) < share
        drawn = 1 + np.floor(coins(ids, derived_seed(self.recipe.seed, "prefix length", step)) * queries)
        return {"kept": torch.from_numpy(np.where(is_masked, drawn, queries).astype(np.int64))}

    def _is_low(self, usage: Usage) -> bool:
        return usage.perplexity < _COLLAPSED_SHARE * self.recipe.codebook.size

    def _revive(self, engine: Engine, after_steps: int) -> int:
        """Draw codes anew, in the fp32 master too; how many."""
        revival = self.model.quantizer.revive(self._revival_candidates(), self.recipe.seed, after_steps)
        engine.overwrite_rows(f"model.{CODEBOOK_PARAMETER}", revival.rows, revival.values)
        return len(revival.rows)

    @torch.no_grad()
    def _revival_candidates(self) -> Tensor:
        """Encoded vectors [N, c] of the last micro-batch, evenly spaced on every rank; equal on all ranks."""
        assert self._causal is not None, "revival comes after a forward pass"
        vectors = self.model.encode_vectors(self._causal).flatten(0, 1)
        numbers = [rows * self.recipe.qformer.queries for rows in self.rows]
        stride = -(-max(numbers) // _REVIVAL_CANDIDATES)
        return gather_rows(self.comm.gather, vectors[::stride], [-(-number // stride) for number in numbers])


def _check(recipe: Recipe, data: StageData) -> None:
    """What the recipe says about its inputs must be what they are."""
    sample = data.train.read(np.zeros(1, np.int64))
    expected = (recipe.qformer.queries, recipe.qformer.width)
    if sample["causal"].shape[1:] != expected:
        raise MismatchError(
            "the shape of the causal embeddings",
            sample["causal"].shape[1:],
            expected,
            "Set qformer.queries and qformer.width.",
        )
    target = recipe.codebook.generation_target
    width = sample[target].shape[-1]
    if width != recipe.codebook.generation_width:
        raise MismatchError(
            f"the width of {target}", width, recipe.codebook.generation_width, "Set codebook.generation_width to it."
        )
    rows = 1 if sample[target].ndim == 2 else sample[target].shape[1]
    if rows != recipe.codebook.head_queries:
        raise MismatchError(
            f"the number of vectors per image in {target}",
            rows,
            recipe.codebook.head_queries,
            "Set codebook.head_queries to it.",
        )
