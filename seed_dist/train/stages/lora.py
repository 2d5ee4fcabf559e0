"""Stage 3: a frozen language model learns to read and write image codes, both at once, by LoRA and new token rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed_dist.config import Recipe
from seed_dist.data.reader import Buffers
from seed_dist.dist.comm import Comm
from seed_dist.dist.precision import dtype_of, precision_on
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.models.captions import unknown_share
from seed_dist.models.coder import load_coder
from seed_dist.models.documents import IGNORE
from seed_dist.models.language import SeedLanguageModel
from seed_dist.train.data import StageData
from seed_dist.train.stages.base import CAPTIONS_LOOKED_AT, Ids, Stage, check_made_by, warn_of_unknown_words
from seed_dist.train.state import coins, derived_seed


class LoraStage(Stage):
    """Trains the adapters and the image tokens of `model`; the rest of it is frozen and in no checkpoint."""

    def __init__(self, recipe: Recipe, data: StageData, comm: Comm, tokenizer_export: Path) -> None:
        super().__init__(recipe, data, comm, recipe.lora_training.micro_batch)
        self._tokenizer_export = tokenizer_export
        _check(recipe, data)
        coder = load_coder(tokenizer_export)
        check_made_by(coder, data, "codes")
        # The frozen base in the precision that the engine trains in: a 7B model in fp32 fills a GPU by itself.
        dtype = dtype_of(precision_on(comm.device, recipe.engine.precision))
        language, codebook = recipe.backbones.language_model, coder.quantizer.code_vectors()
        self.model = SeedLanguageModel(language, recipe.codebook.size, recipe.lora, codebook, dtype=dtype)
        _check_positions(recipe, self.model)
        unknown = unknown_share(self.model.tokenizer, data.some_captions(CAPTIONS_LOOKED_AT))
        warn_of_unknown_words(unknown, language, comm)

    @property
    def validation_samples(self) -> int:
        return self.recipe.lora_training.validation_samples

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per scored token. Ranks hold different numbers of them, so each rank's mean is weighted by its
        share: then the mean over ranks is the mean over all tokens, whatever the number of ranks.
        """
        loss = self.model(**batch)
        tokens = (batch["labels"][:, 1:] != IGNORE).sum().float()
        share = tokens / self.comm.mean(tokens)
        return loss * share, {"scored_tokens": tokens}

    def make_batch(self, ids: Ids, step: int, out: Buffers | None = None) -> dict[str, Tensor]:
        flips = coins(ids, derived_seed(self.recipe.seed, "direction", step)) < self.recipe.lora.caption_first_share
        captions = self.training_captions(ids, step)
        return self._sequences(captions, self.data.train.read(ids, out)["codes"], flips)

    def prepare(self) -> None:
        """The code rows start from the codebook's vectors, if the recipe asks for it."""
        if self.recipe.lora.rows_from_codebook:
            coder = load_coder(self._tokenizer_export)
            self.model.image_tokens.start_rows_from(coder.quantizer.code_vectors(), self.recipe.seed)

    def validate(self, batches: Iterable[Ids]) -> dict[str, float]:
        """Cross-entropy per scored token in both directions."""
        sums = torch.zeros(2, 2, dtype=torch.float64)  # direction (caption, image) x (loss summed over tokens, tokens)
        for ids in batches:
            captions, codes = [self.data.val.captions[i] for i in ids], self.data.val.read(ids)["codes"]
            for direction in (0, 1):
                batch = self._sequences(captions, codes, np.full(len(ids), bool(direction)))
                batch = {key: value.to(self.comm.device) for key, value in batch.items()}
                tokens = float((batch["labels"][:, 1:] != IGNORE).sum())
                loss = float(self.model(**batch))
                sums[direction] += torch.tensor([loss * tokens, tokens], dtype=torch.float64)
        total = torch.stack(self.comm.gather_objects(sums)).sum(0)
        return {
            "caption_loss": float(total[0, 0] / total[0, 1]),
            "image_loss": float(total[1, 0] / total[1, 1]),
            "validation_samples": float(min(len(self.data.val), self.validation_samples)),
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        self.model.save_pretrained(folder, provenance)

    def _sequences(
        self, captions: list[str], codes: npt.NDArray[Any], caption_first: npt.NDArray[Any]
    ) -> dict[str, Tensor]:
        return self.model.sequences(captions, torch.from_numpy(codes), torch.from_numpy(caption_first))


def _check(recipe: Recipe, data: StageData) -> None:
    """What the recipe says about its inputs must be what they are."""
    queries = data.train.read(np.zeros(1, np.int64))["codes"].shape[-1]
    if queries != recipe.qformer.queries:
        raise MismatchError(
            "the number of codes per image", queries, recipe.qformer.queries, "Set qformer.queries to it."
        )


def _check_positions(recipe: Recipe, model: SeedLanguageModel) -> None:
    """Learned positions end where they were trained, and rotary ones are no good beyond."""
    if model.positions is not None and recipe.lora.max_tokens > model.positions:
        raise ConfigError(
            [
                f"lora.max_tokens is {recipe.lora.max_tokens}, but {recipe.backbones.language_model} has "
                f"{model.positions} positions; use at most that"
            ]
        )
