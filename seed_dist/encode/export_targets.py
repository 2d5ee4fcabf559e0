"""Features of features: causal embeddings and codes, by what the first two stages exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from seed_dist.assets import resolve, weights_sha256
from seed_dist.data.manifest import Manifest
from seed_dist.encode.batches import Batch
from seed_dist.encode.encoder import as_array
from seed_dist.errors import MismatchError
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer


class CausalEncoder:
    """causal: [Q, W], causal embeddings of the patch features by an exported Q-Former."""

    target, source, preprocess = "causal", "patches", None

    def __init__(self, export: Path, image_encoder: str, device: str, dtype: str = "float16") -> None:
        self._qformer = CausalQFormer.from_pretrained(export).to(device)
        self._device, self._image_encoder, self._dtype = device, image_encoder, dtype

    def details(self) -> dict[str, Any]:
        config = self._qformer.config
        return {
            "encoder": "causal_qformer",
            "weights_sha256": qformer_fingerprint(self._qformer),
            "preprocessing": "none",
            "dtype": self._dtype,
            "shape": (config.queries, config.width),
        }

    def check_source(self, source: Manifest) -> None:
        expected = weights_sha256(resolve(self._image_encoder, "image_encoder"))
        _require("image encoder's weights behind the patch features", source.details["weights_sha256"], expected)
        _require("width of the patch features", source.details["shape"][-1], self._qformer.config.vision_width)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        patches = torch.from_numpy(batch.features).to(self._device)
        return as_array(self._qformer.embed_image(patches), self._dtype)


class CodeEncoder:
    """codes: int32 [Q], the codes of the causal embeddings by an exported tokenizer."""

    target, source, preprocess = "codes", "causal", None

    def __init__(self, export: Path, device: str) -> None:
        self._tokenizer = SeedTokenizer.from_pretrained(export, device)
        self._device = device

    def details(self) -> dict[str, Any]:
        quantizer = self._tokenizer.quantizer
        return {
            "encoder": "seed_tokenizer",
            "weights_sha256": module_fingerprint(quantizer, dataclasses.asdict(quantizer.config)),
            "preprocessing": "none",
            "dtype": "int32",
            "shape": (quantizer.queries,),
            "codebook_size": quantizer.config.size,
        }

    def check_source(self, source: Manifest) -> None:
        expected = qformer_fingerprint(self._tokenizer.qformer)
        _require("Q-Former's weights behind the causal embeddings", source.details["weights_sha256"], expected)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        causal = torch.from_numpy(batch.features).to(self._device)
        return as_array(self._tokenizer.quantizer.codes(causal), "int32")


def qformer_fingerprint(qformer: CausalQFormer) -> str:
    """The same for a Q-Former exported alone and inside a tokenizer."""
    return module_fingerprint(qformer, dataclasses.asdict(qformer.config))


def _require(what: str, found: object, expected: object) -> None:
    if found != expected:
        action = (
            "Encode those features again with the current weights (delete the old ones), or use the weights they need."
        )
        raise MismatchError(f"the {what}", found, expected, action)
