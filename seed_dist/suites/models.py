"""The models that are measured and those that judge, opened at first use, each with the SHA-256 of its folder.

What was never made raises UnavailableError with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256
from seed_dist.config import BackboneConfig
from seed_dist.dist.precision import dtype_of, precision_on
from seed_dist.errors import ConfigError, UnavailableError
from seed_dist.models.captions import CaptionTokenizer
from seed_dist.models.model_files import read_config, read_model_type, section
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.vision import FrozenClip
from seed_dist.suites.places import Places

if TYPE_CHECKING:
    from seed_dist.models.image_language import ImageLanguage

_STAGE_1 = "seed_causal_qformer"


class Models:
    """Models on one device, in eval mode without gradients. `batch_size`: examples that one sees at a time."""

    def __init__(self, places: Places, device: torch.device, batch_size: int = 64) -> None:
        self.places, self.device, self.batch_size = places, device, batch_size
        self._texts: dict[int, CaptionTokenizer] = {}

    @cached_property
    def tokenizer_folder(self) -> Path | None:
        """The exported tokenizer; None where only stage 1 is there."""
        if self.places.tokenizer is not None:
            return None if read_model_type(self.places.tokenizer) == _STAGE_1 else self.places.tokenizer
        try:
            return self.places.export("codebook")
        except UnavailableError:
            return None

    @cached_property
    def tokenizer(self) -> SeedTokenizer:
        """Pictures to ids and back, with its image encoder and painter."""
        if self.tokenizer_folder is None:
            self.places.export("codebook")  # says what is missing
            raise UnavailableError(f"--tokenizer {self.places.tokenizer} is stage 1's export, which has no codes.")
        model = SeedTokenizer.from_pretrained(self.tokenizer_folder, self.device)
        model.batch_size = self.batch_size
        return model

    @cached_property
    def qformer_folder(self) -> Path:
        """The export whose text path and heads put captions and pictures into one space."""
        folder = self.tokenizer_folder
        if folder is not None and read_config(folder, "seed_tokenizer").get("text_path"):
            return folder
        if folder is None and self.places.tokenizer is not None:
            return self.places.tokenizer
        return self.places.export("causal_qformer")

    @cached_property
    def qformer(self) -> CausalQFormer:
        """With text path and retrieval heads."""
        if self.qformer_folder == self.tokenizer_folder:
            return self.tokenizer.qformer
        model = CausalQFormer.from_pretrained(self.qformer_folder).to(self.device)
        if not model.has_text_path:
            raise UnavailableError(f"{self.qformer_folder} was exported without its text path; no caption can be read.")
        return model

    @cached_property
    def backbones(self) -> BackboneConfig:
        """What the tokenizer, or stage 1, was trained on."""
        folder = self.tokenizer_folder or self.qformer_folder
        kind = "seed_tokenizer" if self.tokenizer_folder else _STAGE_1
        return section(read_config(folder, kind), "backbones", BackboneConfig, folder)

    @cached_property
    def image_encoder(self) -> FrozenClip:
        return FrozenClip(self.backbones.image_encoder, self.device, "image_encoder")

    @torch.no_grad()
    def causal_embeddings(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures -> causal embeddings [B, Q, W] on the CPU."""
        if self.tokenizer_folder is not None:
            return self.tokenizer.causal_embeddings(pictures)
        parts = []
        for start in range(0, len(pictures), self.batch_size):
            pixels = self.image_encoder.processor(pictures[start : start + self.batch_size], start)
            patches = self.image_encoder.patch_features(pixels.to(self.device))
            parts.append(self.qformer.embed_image(patches).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def codes(self, causal: Tensor) -> Tensor:
        """Causal embeddings [B, Q, W] -> ids int64 [B, Q] on the CPU."""
        blocks = causal.split(self.batch_size)
        return torch.cat([self.tokenizer.quantizer.codes(block.to(self.device)).cpu() for block in blocks])

    @torch.no_grad()
    def image_feature(self, causal: Tensor) -> Tensor:
        """Causal embeddings [B, Q, W] -> unit vectors [B, D] on the CPU."""
        return self.qformer.image_feature(causal.to(self.device)).cpu()

    @torch.no_grad()
    def text_feature(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """Captions, cut at `max_tokens` -> unit vectors [B, D] on the CPU."""
        if max_tokens not in self._texts:
            self._texts[max_tokens] = CaptionTokenizer(self.backbones.text_tokenizer, max_tokens)
        parts = []
        for start in range(0, len(captions), self.batch_size):
            ids, mask = self._texts[max_tokens](captions[start : start + self.batch_size])
            hidden = self.qformer.embed_text(ids.to(self.device), mask.to(self.device))
            parts.append(self.qformer.text_feature(hidden).cpu())
        return torch.cat(parts)

    @cached_property
    def llm_folder(self) -> Path:
        return self.places.llm or self.places.export("lora")

    @cached_property
    def language(self) -> ImageLanguage:
        """The language model with its base. On a GPU in half precision, as it was trained."""
        from seed_dist.models.language_folder import open_language

        recorded = self.places.recorded("lora").get("recipe", {}).get("lora", {}) if self.places.llm is None else {}
        dtype = dtype_of(precision_on(self.device, "auto"))
        model = open_language(self.llm_folder, None, dtype, recorded.get("code_order", "causal"))
        model.check_codes(int(self.tokenizer.quantizer.config.size))
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def judge(self) -> FrozenClip:
        """The CLIP that scores pictures: --judge, otherwise the generation encoder."""
        reference = self.places.judge or self.backbones.generation_encoder
        return FrozenClip(reference, self.device, "generation_encoder")

    @cached_property
    def peers(self) -> dict[str, FrozenClip]:
        """--peer folders by name; all put pictures and texts into one space."""
        found = {
            Path(reference).name.replace(":", "_"): FrozenClip(reference, self.device)
            for reference in self.places.peers
        }
        if problems := [
            f"--peer {name} has no joint space of pictures and texts" for name, p in found.items() if not p.joins_both
        ]:
            raise ConfigError(problems)
        return found

    def tokenizer_hashes(self) -> dict[str, Any]:
        """Of the tokenizer (or stage 1) and its image encoder, for protocols and receipts."""
        own = self.tokenizer_folder or self.qformer_folder
        backbones = {"image_encoder": self.backbones.image_encoder}
        return {
            "tokenizer": weights_sha256(own),
            **{name: weights_sha256(resolve(at, name)) for name, at in backbones.items()},
        }

    def language_hashes(self) -> dict[str, Any]:
        """Of the adapter and its base, or of the merged model."""
        from seed_dist.models.language import description
        from seed_dist.models.merged_language import is_merged

        base = {}
        if not is_merged(self.llm_folder):
            reference = str(description(self.llm_folder)["base"])
            base = {"language_model": weights_sha256(resolve(reference, "language_model"))}
        return {"llm": weights_sha256(self.llm_folder), **base}
