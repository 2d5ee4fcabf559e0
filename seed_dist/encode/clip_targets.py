"""Features straight from images and captions, by a frozen encoder."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from seed_dist.data.manifest import Manifest
from seed_dist.encode.batches import Batch
from seed_dist.encode.encoder import as_array
from seed_dist.models.vision import FrozenClip
from seed_dist.pixels import DECODING


class ClipImages:
    """A frozen encoder whose one pass over a batch serves both patch features and image embeddings, if it has them."""

    def __init__(self, clip: FrozenClip) -> None:
        self.clip = clip
        blank = torch.zeros(1, 3, clip.image_size, clip.image_size)
        patches, embedding = clip.patches_and_embedding(blank)
        self.patches_shape = tuple(patches.shape[1:])
        self._batch: Batch | None = None
        self._outputs = (patches, embedding)

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Patch features [B, P, V] and image embeddings [B, E] of a batch; the last batch is remembered."""
        if batch is not self._batch:
            self._outputs = self.clip.patches_and_embedding(batch.pixels[self.clip.preprocess])
            self._batch = batch
        return self._outputs

    def details(self) -> dict[str, Any]:
        details = self.clip.details()
        return {**details, "preprocessing": {**details["preprocessing"], "decoding": DECODING}}


class PatchEncoder:
    """patches: [P, V], the image encoder's patch features before any final norm."""

    target, source = "patches", "images"

    def __init__(self, images: ClipImages, dtype: str = "float16") -> None:
        self._images, self.preprocess, self._dtype = images, images.clip.preprocess, dtype

    def details(self) -> dict[str, Any]:
        return {**self._images.details(), "dtype": self._dtype, "shape": self._images.patches_shape}

    def check_source(self, source: Manifest) -> None:
        """Any images will do."""

    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        return as_array(self._images.outputs(batch)[0], self._dtype)


class ImageEmbeddingEncoder:
    """image_embedding: fp32 [E], un-normalised, what the painter is conditioned on."""

    target, source = "image_embedding", "images"

    def __init__(self, images: ClipImages) -> None:
        self._images, self.preprocess = images, images.clip.preprocess
        blank = torch.zeros(1, 3, images.clip.image_size, images.clip.image_size)
        self._shape = tuple(images.clip.image_embedding(blank).shape[1:])  # refuses a model that has none

    def details(self) -> dict[str, Any]:
        return {**self._images.details(), "dtype": "float32", "shape": self._shape}

    def check_source(self, source: Manifest) -> None:
        """Any images will do."""

    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        embedding = self._images.outputs(batch)[1]
        assert embedding is not None, "the constructor asked for one"
        return as_array(embedding, "float32")


class TextFeatureEncoder:
    """text_features: fp16 [T, W] of the captions, what Stable Diffusion is conditioned on."""

    target, source, preprocess = "text_features", "images", None

    def __init__(self, clip: FrozenClip) -> None:
        self._clip = clip
        self._shape = tuple(clip.text_features([""]).shape[1:])

    def details(self) -> dict[str, Any]:
        details = self._clip.details()
        return {**details, "preprocessing": "the encoder's own tokenizer", "dtype": "float16", "shape": self._shape}

    def check_source(self, source: Manifest) -> None:
        """Any captions will do."""

    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        return as_array(self._clip.text_features(batch.captions), "float16")
