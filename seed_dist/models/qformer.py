"""The Causal Q-Former (queries that read an image) and the Reverse Q-Former (queries that read its embeddings).

BERT layers with cross-attention in every second one. With `causal`, output k is a function of queries 0..k and the
image only, exactly, for any number of queries: lower-triangular self-attention among queries, and every other part
acts on each query alone. The published code has this for exactly 32 queries; here it is an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seed_dist.config import BackboneConfig, QFormerConfig
from seed_dist.errors import MismatchError
from seed_dist.models.attention import BERT_NORM_EPS, BertLayer, initialise_as_bert
from seed_dist.models.memory_attention import Affine
from seed_dist.models.model_files import load_weights, read_config, save_model, section

VISION_NORM_EPS = 1e-5  # ln_vision of BLIP-2
_MODEL_TYPE = "seed_causal_qformer"


class QueryEncoder(nn.Module):
    """BERT layers on query vectors; layers 0, `cross_every`, 2*`cross_every`, ... also attend to a memory."""

    def __init__(self, config: QFormerConfig, memory_width: int, text: bool) -> None:
        super().__init__()
        self.embedding_norm = nn.LayerNorm(config.width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            BertLayer(
                config.width,
                config.heads,
                config.mlp_width,
                memory_width if index % config.cross_every == 0 else None,
                config.dropout,
                text,
            )
            for index in range(config.layers)
        )

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        affine: Affine | None = None,
        causal: bool = False,
        last_only: bool = False,
    ) -> Tensor:
        """Queries [1, Q, W] and memory [B, M, V] -> [B, Q, W], or [B, 1, W] (the last query's) with `last_only`.

        Until the first cross-attention all samples are equal; the batch is only spread out before it when dropout makes
        them differ.
        """
        if self.training and self.dropout.p > 0:
            queries = queries.expand(len(memory), -1, -1)
        x = self.dropout(self.embedding_norm(queries))
        for index, layer in enumerate(self.layers):
            x = layer(x, memory, affine, causal, last_only and index == len(self.layers) - 1)
        return x

    def forward_text(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Text [B, T, W] with mask [B, 1, 1, T] -> [B, T, W], bidirectional."""
        x: Tensor = self.dropout(self.embedding_norm(embedded))
        for layer in self.layers:
            x = layer.forward_text(x, mask)  # type: ignore[operator]
        return x


class CausalQFormer(nn.Module):
    """Stage 1: image patch features -> causal embeddings; captions -> text features; both into one joint space.

    `text_path=False` leaves out everything that only the contrastive stage needs (word and position embeddings, text
    feed-forward parts, projections, temperature), as the published tokenizer checkpoints do.
    """

    def __init__(self, config: QFormerConfig, text_path: bool = True) -> None:
        super().__init__()
        self.config, self.has_text_path = config, text_path
        self.ln_vision = nn.LayerNorm(config.vision_width, eps=VISION_NORM_EPS)
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.encoder = QueryEncoder(config, config.vision_width, text_path)
        if text_path:
            self.word_embeddings = nn.Embedding(config.vocabulary_size, config.width)
            self.position_embeddings = nn.Embedding(config.text_positions, config.width)
            self.vision_proj = nn.Linear(config.width, config.projection_width)
            self.text_proj = nn.Linear(config.width, config.projection_width)
            self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.apply(initialise_as_bert)
        nn.init.normal_(self.query_tokens, std=0.02)

    def embed_image(self, patch_features: Tensor, last_only: bool = False) -> Tensor:
        """Patch features [B, P, V] (before `ln_vision`, any float dtype) -> causal embeddings [B, Q, W].

        `last_only` gives [B, 1, W], equal to the last causal embedding, without computing the others in the last layer:
        all that the contrastive loss needs.
        """
        normalised = F.layer_norm(patch_features.float(), (self.config.vision_width,), eps=VISION_NORM_EPS)
        affine = (self.ln_vision.weight, self.ln_vision.bias)  # folded into keys and values by the cross-attention
        embeddings: Tensor = self.encoder(
            self.query_tokens, normalised.to(self.query_tokens.dtype), affine, self.config.causal, last_only
        )
        return embeddings

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids [B, T] and mask [B, T] (non-zero = real token, at least one per row) -> hidden states [B, T, W]."""
        assert self.has_text_path, "this Q-Former was built without its text path"
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        embedded = self.word_embeddings(input_ids) + positions
        return self.encoder.forward_text(embedded, attention_mask.bool()[:, None, None, :])

    def image_feature(self, causal_embeddings: Tensor) -> Tensor:
        """Causal embeddings [B, Q, W] (or only the last, [B, 1, W]) -> unit vectors [B, D] from the last query."""
        return F.normalize(self.vision_proj(causal_embeddings[:, -1]).float(), dim=-1)

    def text_feature(self, text_hidden: Tensor) -> Tensor:
        """Text hidden states [B, T, W] -> unit vectors [B, D] from token 0."""
        return F.normalize(self.text_proj(text_hidden[:, 0]).float(), dim=-1)

    def save_pretrained(self, folder: str | Path, backbones: BackboneConfig, provenance: Mapping[str, Any]) -> None:
        """Write config.json (sizes, backbones, `provenance` as given) and model.safetensors."""
        config = {
            "model_type": _MODEL_TYPE,
            "qformer": dataclasses.asdict(self.config),
            "text_path": self.has_text_path,
            "backbones": dataclasses.asdict(backbones),
            "provenance": dict(provenance),
        }
        save_model(Path(folder), self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CausalQFormer:
        """An exported Q-Former in eval mode without gradients; errors list what does not fit."""
        folder = Path(folder)
        values = read_config(folder, _MODEL_TYPE)
        model = cls(section(values, "qformer", QFormerConfig, folder), bool(values["text_path"]))
        load_weights(model, folder)
        return model.eval().requires_grad_(False)

    def start_from(self, folder: Path) -> None:
        """Take over the weights of an exported Q-Former of the same sizes, causal or not, such as BLIP-2's.

        Raises MismatchError with both values of a size that differs, or with every weight that does.
        """
        other = section(read_config(folder, _MODEL_TYPE), "qformer", QFormerConfig, folder)
        sizes = ("queries", "width", "layers", "heads", "mlp_width", "cross_every", "vision_width", "projection_width")
        for name in sizes:  # heads and layers with cross-attention are not always seen from the weights' shapes
            if getattr(other, name) != getattr(self.config, name):
                raise MismatchError(
                    f"{name} of {folder}",
                    getattr(other, name),
                    getattr(self.config, name),
                    f"Set qformer.{name} to it, or start from other weights (backbones.qformer; null: random ones).",
                )
        load_weights(self, folder)


class ReverseQFormer(nn.Module):
    """Queries that read the decoded embeddings [B, Q, W] and predict generation embeddings; never causal.

    `config.queries` is the number of generation embeddings. With one the result is [B, G], otherwise [B, queries, G].
    """

    def __init__(self, config: QFormerConfig, generation_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.encoder = QueryEncoder(config, config.width, text=False)
        self.out = nn.Linear(config.width, generation_width)
        self.apply(initialise_as_bert)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, decoded: Tensor) -> Tensor:
        embeddings: Tensor = self.out(self.encoder(self.queries, decoded))
        return embeddings.squeeze(1) if embeddings.shape[1] == 1 else embeddings
