"""The image tokenizer as users see it: pictures to ids, ids to embeddings and pictures, retrieval features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.models.image_ids import checked_ids
from seed_dist.models.image_processor import PREPROCESSOR_NAME, Picture, SeedImageProcessor, as_pictures
from seed_dist.models.model_files import load_weights, read_config, save_model, section
from seed_dist.models.painter import Painter, Seed, load_painter, require_shape
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

if TYPE_CHECKING:
    from seed_dist.models.captions import CaptionTokenizer
    from seed_dist.models.vision import FrozenClip

_MODEL_TYPE = "seed_tokenizer"
Images: TypeAlias = Picture | Sequence[Picture] | Tensor
Ids: TypeAlias = Tensor | Sequence[Sequence[int]] | Sequence[int] | npt.NDArray[np.integer[Any]]


class SeedTokenizer(nn.Module):
    """A trained tokenizer: Causal Q-Former, quantizer with its decoders, and the names of the frozen backbones.

    Images are given as PIL pictures or numpy arrays uint8 [H, W, 3], as the pixel values [B, 3, S, S] that `processor`
    makes of them, or as patch features [B, P, V] of the image encoder (any float dtype). One picture, or the ids of one
    image, is a batch of one. Backbones load on first use: with patch features no image encoder is needed, without
    `paint` no painter, without text no text tokenizer.

    Work is done in blocks of `batch_size`. In fp32 the ids of an image do not depend on the block it is in, except
    where two codes are equally near to within rounding (about 1e-6).

    The modules are taken over: put into eval mode, without gradients.
    """

    def __init__(
        self,
        qformer: CausalQFormer,
        quantizer: SeedQuantizer,
        backbones: BackboneConfig,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.qformer, self.quantizer = qformer, quantizer
        self.backbones, self.provenance = backbones, dict(provenance or {})
        self.batch_size = 64
        self._processor: SeedImageProcessor | None = None
        self._image_encoder: FrozenClip | None = None
        self._captions: CaptionTokenizer | None = None
        self._painter: Painter | None = None
        self.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> SeedTokenizer:
        """An exported tokenizer on `device`, in eval mode; errors list the weights or options that do not fit."""
        folder = Path(folder)
        values = read_config(folder, _MODEL_TYPE)
        layout = section(values, "qformer", QFormerConfig, folder)
        qformer = CausalQFormer(layout, text_path=bool(values.get("text_path")))
        quantizer = SeedQuantizer.for_qformer(section(values, "codebook", CodebookConfig, folder), layout)
        backbones = section(values, "backbones", BackboneConfig, folder)
        model = cls(qformer, quantizer, backbones, values.get("provenance"))
        load_weights(model, folder)
        if (folder / PREPROCESSOR_NAME).is_file():
            model._processor = SeedImageProcessor.from_pretrained(folder)
        return model.to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json (all sizes, backbones, provenance) and model.safetensors (no training statistics).

        And preprocessor_config.json, where the image encoder's folder or that file is at hand.
        """
        config = {
            "model_type": _MODEL_TYPE,
            "qformer": dataclasses.asdict(self.qformer.config),
            "text_path": self.qformer.has_text_path,
            "codebook": dataclasses.asdict(self.quantizer.config),
            "backbones": dataclasses.asdict(self.backbones),
            "provenance": self.provenance,
        }
        with suppress(ConfigError, DataError):  # trained from features, on a machine without the image encoder
            self.processor.save_pretrained(folder)
        save_model(Path(folder), self, config)

    @property
    def processor(self) -> SeedImageProcessor:
        """The pre-processing of pictures: what the export says, otherwise what the image encoder's folder says."""
        if self._processor is None:
            from seed_dist.models.vision import processor_of

            self._processor = processor_of(self.backbones.image_encoder, "image_encoder")
        return self._processor

    @property
    def device(self) -> torch.device:
        return self.qformer.query_tokens.device

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:
        """B images -> ids, int64 [B, Q] on the CPU, each in 0 .. codebook size - 1."""
        ids = self._in_blocks(images, lambda block, first: self.quantizer.codes(self._causal(block, first)))
        return ids if ids is not None else torch.empty(0, self.quantizer.queries, dtype=torch.int64)

    @torch.no_grad()
    def causal_embeddings(self, images: Images) -> Tensor:
        """B images -> continuous causal embeddings [B, Q, W], the input of the quantizer."""
        embeddings = self._in_blocks(images, self._causal)
        return embeddings if embeddings is not None else torch.empty(0, self.quantizer.queries, self.quantizer.width)

    @torch.no_grad()
    def reconstruct(self, ids: Ids) -> Tensor:
        """Ids [B, Q] -> causal embeddings recovered from them [B, Q, W]."""
        return self._on_ids(ids, lambda block: self.quantizer.reconstruct(self.quantizer.decode(block)))

    @torch.no_grad()
    def decode_embeddings(self, ids: Ids) -> Tensor:
        """Ids [B, Q] -> generation embeddings [B, G] (or [B, N, G]) like the generation encoder's, un-normalised."""
        return self._on_ids(ids, lambda block: self.quantizer.generation_embedding(self.quantizer.decode(block)))

    def paint(
        self,
        ids: Ids,
        seed: Seed = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: Ids | None = None,
    ) -> list[Image.Image]:
        """Ids [B, Q] -> B pictures by the frozen painter; equal arguments give equal pictures.

        `seed` is one for all, from which and its place each picture's noise follows, or a sequence, one for each.
        `steps` and `guidance` are by default those of the painter's publication. Guidance above 1 drives the pictures
        away from what the ids `negative` show, [B, Q] or one image's for all; by default from nothing in particular.
        """
        problems = [f"steps is {steps}; at least 1 is needed"] if steps is not None and steps < 1 else []
        problems += [f"guidance is {guidance}; 0 or more"] if guidance is not None and not guidance >= 0 else []
        if problems:
            raise ConfigError(problems)
        embeddings = self.decode_embeddings(ids)
        if self._painter is None:
            self._painter = load_painter(self.backbones.painter, self.device)
        require_shape(self._painter, tuple(embeddings.shape[1:]))
        away = None if negative is None else self.decode_embeddings(negative)
        return self._painter.paint(embeddings, seed, steps, guidance, away)

    @torch.no_grad()
    def image_feature(self, images: Images) -> Tensor:
        """B images -> unit vectors [B, D] for retrieval, from the continuous embeddings."""
        self._need_text_path()
        return self.qformer.image_feature(self.causal_embeddings(images).to(self.device)).cpu()

    @torch.no_grad()
    def code_feature(self, ids: Ids) -> Tensor:
        """Ids [B, Q] -> unit vectors [B, D] for retrieval, from the embeddings that are recovered from the codes."""
        self._need_text_path()
        return self.qformer.image_feature(self.reconstruct(ids).to(self.device)).cpu()

    @torch.no_grad()
    def text_feature(self, captions: Sequence[str]) -> Tensor:
        """B captions -> unit vectors [B, D] for retrieval."""
        self._need_text_path()
        if self._captions is None:
            from seed_dist.models.captions import CaptionTokenizer

            self._captions = CaptionTokenizer(self.backbones.text_tokenizer, self.qformer.config.max_text_tokens)
        features = []
        for start in range(0, len(captions), self.batch_size):
            ids, mask = self._captions(captions[start : start + self.batch_size])
            hidden = self.qformer.embed_text(ids.to(self.device), mask.to(self.device))
            features.append(self.qformer.text_feature(hidden).cpu())
        return torch.cat(features) if features else torch.empty(0, self.qformer.config.projection_width)

    def _causal(self, images: Tensor | Sequence[Picture], first: int) -> Tensor:
        return self.qformer.embed_image(self._patch_features(images, first).to(self.device))

    def _patch_features(self, images: Tensor | Sequence[Picture], first: int) -> Tensor:
        if isinstance(images, Tensor) and images.ndim == 3:
            return images
        pixels = images if isinstance(images, Tensor) else self.processor(images, first)
        encoder, width = self._loaded_encoder(), self.qformer.config.vision_width
        features = encoder.patch_features(pixels.float().to(self.device))
        if features.shape[-1] != width:
            raise MismatchError(
                f"the width of patch features of {encoder.reference}",
                features.shape[-1],
                width,
                "Name the image encoder that this tokenizer was trained with (backbones.image_encoder).",
            )
        return features

    def _loaded_encoder(self) -> FrozenClip:
        if self._image_encoder is None:
            from seed_dist.models.vision import FrozenClip

            encoder = FrozenClip(self.backbones.image_encoder, self.device, "image_encoder")
            if encoder.processor != self.processor:
                raise MismatchError(
                    f"the pre-processing of {encoder.reference}",
                    encoder.processor.details(),
                    self.processor.details(),
                    "Name the image encoder that this tokenizer was trained with (backbones.image_encoder).",
                )
            self._image_encoder = encoder
        return self._image_encoder

    def _in_blocks(
        self, images: Images, function: Callable[[Tensor | Sequence[Picture], int], Tensor]
    ) -> Tensor | None:
        """`function` of blocks of images and the number of the first, joined on the CPU; None without images."""
        items = self._checked_tensor(images) if isinstance(images, Tensor) else as_pictures(images)
        starts = range(0, len(items), self.batch_size)
        blocks = [function(items[start : start + self.batch_size], start).cpu() for start in starts]
        return torch.cat(blocks) if blocks else None

    def _checked_tensor(self, images: Tensor) -> Tensor:
        width, side = self.qformer.config.vision_width, self.processor.size_px if images.ndim == 4 else 0
        shape = {3: (*images.shape[:2], width), 4: (len(images), 3, side, side)}.get(images.ndim)
        if images.shape != shape or not images.is_floating_point():
            raise DataError(
                f"images are a tensor {images.dtype} {tuple(images.shape)}, but floats are needed: patch features "
                f"[B, P, {width}] of this tokenizer's image encoder, or pixel values [B, 3, S, S] of its processor. "
                "Or give PIL images."
            )
        return images

    def _on_ids(self, ids: Ids, function: Callable[[Tensor], Tensor]) -> Tensor:
        checked = checked_ids(ids, self.quantizer.queries, self.quantizer.config.size)
        # An empty batch goes through as one empty block, which gives the right shape.
        return torch.cat([function(block).cpu() for block in checked.to(self.device).split(self.batch_size)])

    def _need_text_path(self) -> None:
        if not self.qformer.has_text_path:
            raise DataError(
                "this tokenizer was exported without the contrastive heads and the text path, so it gives no retrieval "
                "features. Use an export of the codebook stage of this project."
            )
