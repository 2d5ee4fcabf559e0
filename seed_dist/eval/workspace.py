"""What a workspace holds for an evaluation: splits, trained models, frozen backbones, each loaded at first use.

Asking for what was never made raises UnavailableError with the command that makes it; what is there but damaged, or
belongs to something else, raises the reader's own error.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from seed_dist.config import Recipe, StageName
from seed_dist.data.manifest import MANIFEST_NAME
from seed_dist.data.reader import ImageShards, PairedFeatures, Rows
from seed_dist.dist.precision import dtype_of, precision_on
from seed_dist.errors import DataError, UnavailableError
from seed_dist.mixture import CYCLE
from seed_dist.models.captions import CaptionTokenizer, clean_caption
from seed_dist.models.painter import Painter, load_painter
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer

if TYPE_CHECKING:
    from seed_dist.models.language import SeedLanguageModel
    from seed_dist.models.vision import FrozenClip

_MEAN_SAMPLES = 2000  # training samples behind a mean vector: its error is then 1/45 of the spread


@dataclass(frozen=True)
class Invocation:
    """How the user calls the project's commands for this workspace, to say which one is missing."""

    recipe: str
    work: Path
    overrides: tuple[str, ...] = ()

    def train(self, stage: StageName) -> str:
        return f"python -m seed_dist.train {self._options()} --stage {stage}"

    def encode(self, target: str, split: str) -> str:
        return f"python data_prep/encode.py {self._options()} --target {target} --split {split}"

    def _options(self) -> str:
        settings = [word for item in self.overrides for word in ("--set", item)]
        return shlex.join(["--recipe", self.recipe, "--work", str(self.work), *settings])


class Workspace:
    """Models and data of one workspace and recipe, on one device."""

    def __init__(self, recipe: Recipe, invocation: Invocation, device: torch.device) -> None:
        self.recipe, self.invocation, self.device = recipe, invocation, device
        self.work = invocation.work

    def export(self, stage: StageName) -> Path:
        """The folder of a finished stage."""
        folder = self.work / stage / "export"
        if not folder.is_dir():
            raise UnavailableError(
                f"{folder} is not there: the stage {stage} is not finished.", self.invocation.train(stage)
            )
        return folder

    def has_split(self, split: str) -> bool:
        return (self.work / "images" / split / MANIFEST_NAME).is_file()

    @cached_property
    def qformer(self) -> CausalQFormer:
        return CausalQFormer.from_pretrained(self.export("causal_qformer")).to(self.device)

    @cached_property
    def caption_tokenizer(self) -> CaptionTokenizer:
        return CaptionTokenizer(self.recipe.backbones.text_tokenizer, self.qformer.config.max_text_tokens)

    @cached_property
    def tokenizer(self) -> SeedTokenizer:
        model = SeedTokenizer.from_pretrained(self.export("codebook"), self.device)
        model.batch_size = self.recipe.eval.batch_size
        return model

    @cached_property
    def language(self) -> SeedLanguageModel:
        from seed_dist.models.language import SeedLanguageModel

        folder, recipe, codes = self.export("lora"), self.recipe, self.recipe.codebook.size
        # On a GPU in half precision, as it was trained; a 7B model in fp32 would not leave room for anything else.
        dtype = dtype_of(precision_on(self.device, "auto"))
        reference = recipe.backbones.language_model
        model = SeedLanguageModel.from_pretrained(folder, reference, codes, recipe.lora, dtype)
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def clip(self) -> FrozenClip:
        from seed_dist.models.vision import FrozenClip

        reference = self.recipe.backbones.generation_encoder
        clip = FrozenClip(reference, self.device, "generation_encoder")
        if not clip.joins_both:
            raise UnavailableError(
                f"{reference} does not put pictures and texts into one space, so it cannot judge them; an open_clip "
                "folder as backbones.generation_encoder can."
            )
        return clip

    @cached_property
    def painter(self) -> Painter:
        painter, codebook = load_painter(self.recipe.backbones.painter, self.device), self.recipe.codebook
        several = (codebook.head_queries,) if codebook.head_queries > 1 else ()
        shape = (*several, codebook.generation_width)
        if painter.embedding_shape != shape:
            raise UnavailableError(
                f"{self.recipe.backbones.painter} paints from embeddings of shape {list(painter.embedding_shape)}, but "
                f"this recipe's tokenizer predicts {codebook.generation_target} of shape {list(shape)}; set "
                "backbones.painter to one that reads it."
            )
        return painter

    def parameters(self) -> dict[str, int]:
        """Parameter counts of the trained models that were loaded, and of the language model that stays frozen."""
        counts: dict[str, int] = {}
        if "qformer" in self.__dict__:
            counts["causal Q-Former with text path"] = _count(self.qformer)
        if "tokenizer" in self.__dict__:
            counts["quantizer and its decoders"] = _count(self.tokenizer.quantizer)
        if "language" in self.__dict__:
            new = _count(self.language.image_tokens)
            new += sum(p.numel() for name, p in self.language.named_parameters() if "lora_" in name)
            counts["language model: adapter and new tokens"] = new
            counts["language model: frozen"] = _count(self.language) - new
        return counts

    def mean_of(self, target: str) -> Tensor:
        """Mean sample of a feature set over evenly spaced training samples, in float64."""
        return self.some_training_samples(target).double().mean(0)

    def some_training_samples(self, target: str) -> Tensor:
        """Features of evenly spaced samples of the training split; of each split of a mixture as many as its share."""
        found = []
        for name, count in self.recipe.data.counts.items():
            split = Split(self, name)
            wanted = min(max(1, round(_MEAN_SAMPLES * count / CYCLE)), len(split))
            found.append(split.read(target, np.unique(np.linspace(0, len(split) - 1, wanted).astype(np.int64))))
        return torch.cat(found)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class Split:
    """One split: captions, pictures and features, row by row."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        folder = workspace.work / "images" / name
        if not (folder / MANIFEST_NAME).is_file():
            raise UnavailableError(
                f"{folder} is not there, or not finished.",
                f"python data_prep/shard.py SOURCE {shlex.quote(str(folder))}",
            )
        self.name, self._workspace = name, workspace
        self.images = ImageShards(folder)
        if not len(self.images):
            raise DataError(f"{folder} holds no images, so there is nothing to measure. Choose another --split.")
        # One text for all comparisons: what the Q-Former is given.
        self.captions = [clean_caption(caption) for caption in self.images.captions]
        self._sets: dict[str, PairedFeatures] = {}

    def __len__(self) -> int:
        return len(self.images)

    def features(self, target: str) -> PairedFeatures:
        """A feature set that was made from these images."""
        if target not in self._sets:
            work = self._workspace.work
            folder = work / "features" / target / self.name
            if not (folder / MANIFEST_NAME).is_file():
                command = self._workspace.invocation.encode(target, self.name)
                raise UnavailableError(f"{folder} is not there, or not finished.", command)
            self._sets[target] = PairedFeatures(work, self.name, [target])
        return self._sets[target]

    def read(self, target: str, rows: Rows | None = None) -> Tensor:
        """Features of these rows (all of them by default), [N, ...] on the CPU; zeros where a sample has none."""
        features = self.features(target).sets[target]
        rows = np.arange(len(self), dtype=np.int64) if rows is None else rows
        return torch.from_numpy(features.read(rows))
