"""The image tokenizer as users see it: pictures to ids, ids to embeddings and pictures, retrieval features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.errors import DataError, MismatchError
from seed_dist.models.model_files import load_weights, read_config, save_model, section
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

if TYPE_CHECKING:
    from seed_dist.models.captions import CaptionTokenizer
    from seed_dist.models.painter import Painter
    from seed_dist.models.vision import FrozenClip

_MODEL_TYPE = "seed_tokenizer"
Images = Sequence[Image.Image] | Tensor


class SeedTokenizer(nn.Module):
    """A trained tokenizer: Causal Q-Former, quantizer with its decoders, and the names of the frozen backbones.

    Images are given as PIL pictures, or as patch features [B, P, V] of the image encoder (any float dtype). Backbones
    load on first use: with patch features no image encoder is needed, without `paint` no painter, without text no
    text tokenizer.

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
        return model.to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json (all sizes, backbones, provenance) and model.safetensors (no training statistics)."""
        config = {
            "model_type": _MODEL_TYPE,
            "qformer": dataclasses.asdict(self.qformer.config),
            "text_path": self.qformer.has_text_path,
            "codebook": dataclasses.asdict(self.quantizer.config),
            "backbones": dataclasses.asdict(self.backbones),
            "provenance": self.provenance,
        }
        save_model(Path(folder), self, config)

    @property
    def device(self) -> torch.device:
        return self.qformer.query_tokens.device

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:
        """B images -> ids, int64 [B, Q] on the CPU, each in 0 .. codebook size - 1."""
        ids = self._in_blocks(images, lambda block: self.quantizer.codes(self._causal(block)))
        return ids if ids is not None else torch.empty(0, self.quantizer.queries, dtype=torch.int64)

    @torch.no_grad()
    def causal_embeddings(self, images: Images) -> Tensor:
        """B images -> continuous causal embeddings [B, Q, W], the input of the quantizer."""
        embeddings = self._in_blocks(images, self._causal)
        return embeddings if embeddings is not None else torch.empty(0, self.quantizer.queries, self.quantizer.width)

    @torch.no_grad()
    def reconstruct(self, ids: Tensor) -> Tensor:
        """Ids [B, Q] -> causal embeddings recovered from them [B, Q, W]."""
        ids = self._checked(ids)
        return self._on_ids(ids, lambda block: self.quantizer.reconstruct(self.quantizer.decode(block)))

    @torch.no_grad()
    def decode_embeddings(self, ids: Tensor) -> Tensor:
        """Ids [B, Q] -> generation embeddings [B, G] (or [B, N, G]) like the generation encoder's, un-normalised."""
        ids = self._checked(ids)
        return self._on_ids(ids, lambda block: self.quantizer.generation_embedding(self.quantizer.decode(block)))

    def paint(self, ids: Tensor, seed: int = 0, steps: int = 20, guidance: float = 2.0) -> list[Image.Image]:
        """Ids [B, Q] -> B pictures by the frozen painter; equal arguments give equal pictures."""
        embeddings = self.decode_embeddings(ids)
        if self._painter is None:
            from seed_dist.models.painter import Painter

            self._painter = Painter(self.backbones.painter, self.device)
        if self._painter.embedding_width != embeddings.shape[-1]:
            raise MismatchError(
                f"the width of embeddings that the painter {self._painter.reference} reads",
                self._painter.embedding_width,
                embeddings.shape[-1],
                "Name a painter for this tokenizer's generation embeddings (backbones.painter).",
            )
        return self._painter.paint(embeddings, seed, steps, guidance)

    @torch.no_grad()
    def image_feature(self, images: Images) -> Tensor:
        """B images -> unit vectors [B, D] for retrieval, from the continuous embeddings."""
        self._need_text_path()
        return self.qformer.image_feature(self.causal_embeddings(images).to(self.device)).cpu()

    @torch.no_grad()
    def code_feature(self, ids: Tensor) -> Tensor:
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

    def _causal(self, images: Images) -> Tensor:
        return self.qformer.embed_image(self._patch_features(images).to(self.device))

    def _patch_features(self, images: Images) -> Tensor:
        if isinstance(images, Tensor):
            width = self.qformer.config.vision_width
            if images.ndim != 3 or images.shape[-1] != width or not images.is_floating_point():
                raise DataError(
                    f"patch features are {images.dtype} {tuple(images.shape)}, but floats of shape [B, P, {width}] are "
                    "needed. Give features of this tokenizer's image encoder, or PIL images."
                )
            return images
        if self._image_encoder is None:
            from seed_dist.models.vision import FrozenClip

            self._image_encoder = FrozenClip(self.backbones.image_encoder, self.device, "image_encoder")
        encoder, width = self._image_encoder, self.qformer.config.vision_width
        features = encoder.patch_features(torch.stack([encoder.preprocess(image) for image in images]).to(self.device))
        if features.shape[-1] != width:
            raise MismatchError(
                f"the width of patch features of {encoder.reference}",
                features.shape[-1],
                width,
                "Name the image encoder that this tokenizer was trained with (backbones.image_encoder).",
            )
        return features

    def _in_blocks(self, images: Images, function: Callable[[Images], Tensor]) -> Tensor | None:
        """`function` of blocks of images, joined on the CPU; None without images."""
        blocks = [
            function(images[start : start + self.batch_size]).cpu() for start in range(0, len(images), self.batch_size)
        ]
        return torch.cat(blocks) if blocks else None

    def _on_ids(self, ids: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        # An empty batch goes through as one empty block, which gives the right shape.
        return torch.cat([function(block).cpu() for block in ids.to(self.device).split(self.batch_size)])

    def _checked(self, ids: Tensor) -> Tensor:
        ids = torch.as_tensor(ids)
        queries, size = self.quantizer.queries, self.quantizer.config.size
        if ids.ndim != 2 or ids.shape[1] != queries or ids.is_floating_point() or ids.dtype == torch.bool:
            raise DataError(
                f"ids are {ids.dtype} {tuple(ids.shape)}, but integers of shape [images, {queries}] are needed."
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise DataError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, but this codebook has 0 to {size - 1}. "
                "Subtract the language model's offset of image tokens, or use the tokenizer that made the ids."
            )
        return ids.long()

    def _need_text_path(self) -> None:
        if not self.qformer.has_text_path:
            raise DataError(
                "this tokenizer was exported without the contrastive heads and the text path, so it gives no retrieval "
                "features. Use an export of the codebook stage of this project."
            )
