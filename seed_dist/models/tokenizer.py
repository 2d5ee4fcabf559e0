"""Stage 2: causal embeddings -> codes, and from codes the causal embeddings and the generation embedding again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seed_dist.config import CodebookConfig, QFormerConfig
from seed_dist.errors import ConfigError
from seed_dist.models.attention import ViTBlock
from seed_dist.models.qformer import ReverseQFormer
from seed_dist.models.quantizer import Quantized, VectorQuantizer

CODEBOOK_PARAMETER = "quantizer.embedding.weight"  # within SeedQuantizer, for optimizer groups and revival
STATISTICS_PREFIX = "quantizer.usage_statistics."  # buffers that belong to training, not to the exported tokenizer
_REVERSE_CROSS_EVERY = 2
_MLP_HIDDEN = (256, 128)  # published: 768 -> 256 -> 128 -> 32 for each of 32 tokens, together 1024
_MLP_FLAT = 1024
_BETWEEN = 10.0  # weight of the differences between queries in `whiten_from`
_FLOOR = 0.1  # of the median variance: directions without variance are not blown up
_TANH_SCALE = 0.7  # standard deviation at the tanh: most values in its curved but unsaturated part


class Decoder(nn.Module):
    """Learned positions (zero at the start) and pre-norm blocks over all positions, without a final norm."""

    def __init__(self, queries: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, queries, width))
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(layers))

    def forward(self, decoded: Tensor) -> Tensor:
        x = decoded + self.position
        for block in self.blocks:
            x = block(x)
        return x


class MlpHead(nn.Module):
    """Squeezes each token, joins them all and projects: [B, Q, W] -> [B, G].

    Per token W -> 256 -> 128 -> 1024 / Q (at least 1) with ReLU and without biases: 1024 numbers for 32 queries, as
    published, whatever the width.
    """

    def __init__(self, queries: int, width: int, generation_width: int) -> None:
        super().__init__()
        first, second = _MLP_HIDDEN
        per_token = max(1, _MLP_FLAT // queries)
        self.down = nn.Sequential(
            nn.Linear(width, first, bias=False),
            nn.ReLU(),
            nn.Linear(first, second, bias=False),
            nn.ReLU(),
            nn.Linear(second, per_token, bias=False),
        )
        self.out = nn.Linear(queries * per_token, generation_width)

    def forward(self, decoded: Tensor) -> Tensor:
        embedding: Tensor = self.out(self.down(decoded).flatten(1))
        return embedding


class SeedOutput(NamedTuple):
    """quantized; reconstructed [B, Q, W]; generation [B, G] or [B, head_queries, G]."""

    quantized: Quantized
    reconstructed: Tensor
    generation: Tensor


class SeedQuantizer(nn.Module):
    """Everything that stage 2 trains.

    encode MLP -> quantizer -> decode MLP -> (a) `reconstruction` decoder -> causal embeddings,
    (b) `image` decoder -> head -> generation embedding.
    """

    def __init__(
        self, config: CodebookConfig, queries: int, width: int, mlp_width: int | None = None, dropout: float = 0.0
    ) -> None:
        """`mlp_width` (4 * width if None) and `dropout` only matter to a Reverse Q-Former head."""
        super().__init__()
        self.config, self.queries, self.width = config, queries, width
        code_width = config.width
        self.encode = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_width))
        self.quantizer = VectorQuantizer(config)
        self.decode_mlp = nn.Sequential(nn.Linear(code_width, code_width), nn.Tanh(), nn.Linear(code_width, width))
        self.reconstruction = Decoder(queries, width, config.decoder_layers, config.decoder_heads)
        self.image = Decoder(queries, width, config.decoder_layers, config.decoder_heads)
        # In the place of codes that the decoders do not see. The published objective shows them all and has none.
        self.absent = nn.Parameter(torch.zeros(width)) if config.prefix_masking > 0 else None
        if config.head == "mlp":
            self.head: nn.Module = _mlp_head(config, queries, width)
        else:
            self.head = _reverse_head(config, width, mlp_width or 4 * width, dropout)

    @classmethod
    def for_qformer(cls, config: CodebookConfig, qformer: QFormerConfig) -> SeedQuantizer:
        """The quantizer that fits a Causal Q-Former; a reverse head gets its feed-forward width and dropout."""
        return cls(config, qformer.queries, qformer.width, qformer.mlp_width, qformer.dropout)

    def forward(self, causal: Tensor, kept: Tensor | None = None) -> SeedOutput:
        """Causal embeddings [B, Q, W] -> what the stage's loss needs.

        `kept` int64 [B]: the decoders of sample b see its first kept[b] codes only (extension, `prefix_masking`).
        """
        quantized = self.quantize(causal)
        decoded = self.decode_vectors(quantized.vectors)
        if kept is not None:
            assert self.absent is not None, "only a model with prefix_masking has learned what stands for absent codes"
            decoded = first_codes(decoded, kept, self.absent)
        return SeedOutput(quantized, self.reconstruct(decoded), self.generation_embedding(decoded))

    @torch.no_grad()
    def whiten_from(self, causal: Tensor) -> None:
        """Start the encode MLP as a whitening of causal embeddings [N, Q, W] followed by an orthogonal squeeze.

        Causal embeddings lie near a few directions and differ more between queries than between images, so an MLP that
        starts at random sees almost the same vector everywhere. The whitening divides by the covariance within queries
        plus BETWEEN times that between their means, which lets the images show. Call it before the optimizer copies the
        parameters, with equal arguments on all ranks.
        """
        samples = causal.double().cpu()
        query_means = samples.mean(0)
        mean = query_means.mean(0)
        within = torch.cov((samples - query_means).flatten(0, 1).T)
        values, vectors = torch.linalg.eigh(within + _BETWEEN * torch.cov((query_means - mean).T))
        scale = _TANH_SCALE * (values + _FLOOR * values.median()).rsqrt()
        whitening = (vectors * scale) @ vectors.T
        first, last = (layer for layer in self.encode if isinstance(layer, nn.Linear))
        first.weight.copy_(whitening)
        first.bias.copy_(-(whitening @ mean))
        nn.init.orthogonal_(last.weight)
        nn.init.zeros_(last.bias)

    def encode_vectors(self, causal: Tensor) -> Tensor:
        """Causal embeddings [B, Q, W] -> vectors before quantization [B, Q, c] in fp32."""
        encoded: Tensor = self.encode(causal.to(self.dtype))
        return encoded.float()

    def quantize(self, causal: Tensor) -> Quantized:
        """Causal embeddings [B, Q, W] -> codes [B, Q], straight-through vectors [B, Q, c], loss terms."""
        quantized: Quantized = self.quantizer(self.encode_vectors(causal))
        return quantized

    def codes(self, causal: Tensor) -> Tensor:
        """Causal embeddings [B, Q, W] -> codes int64 [B, Q]."""
        return self.quantizer.codes(self.encode_vectors(causal))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, Q] -> decoded embeddings [B, Q, W]: what both decoders read."""
        return self.decode_vectors(self.quantizer.lookup(codes))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Code vectors [B, Q, c] -> decoded embeddings [B, Q, W]."""
        decoded: Tensor = self.decode_mlp(vectors.to(self.dtype))
        return decoded

    def reconstruct(self, decoded: Tensor) -> Tensor:
        """Decoded embeddings [B, Q, W] -> reconstructed causal embeddings [B, Q, W]."""
        reconstructed: Tensor = self.reconstruction(decoded)
        return reconstructed

    def generation_embedding(self, decoded: Tensor) -> Tensor:
        """Decoded embeddings [B, Q, W] -> [B, G], or [B, head_queries, G] when there are several."""
        generation: Tensor = self.head(self.image(decoded))
        return generation

    @property
    def dtype(self) -> torch.dtype:
        return self.encode[0].weight.dtype  # type: ignore[return-value]


def first_codes(decoded: Tensor, kept: Tensor, absent: Tensor) -> Tensor:
    """Decoded embeddings [B, Q, W] with `absent`, [W] or [Q, W], from position kept[b] on; `kept` int64 [B]."""
    is_kept = torch.arange(decoded.shape[1], device=decoded.device) < kept[:, None]
    return torch.where(is_kept.unsqueeze(-1), decoded, absent.to(decoded.dtype))


def _mlp_head(config: CodebookConfig, queries: int, width: int) -> MlpHead:
    if config.head_queries != 1:
        raise ConfigError(
            [
                f"codebook.head_queries is {config.head_queries}, but codebook.head 'mlp' makes one embedding; "
                "set head_queries to 1 or head to reverse_qformer"
            ]
        )
    return MlpHead(queries, width, config.generation_width)


def _reverse_head(config: CodebookConfig, width: int, mlp_width: int, dropout: float) -> ReverseQFormer:
    layout = QFormerConfig(
        queries=config.head_queries,
        width=width,
        layers=config.head_layers,
        heads=config.decoder_heads,
        mlp_width=mlp_width,
        cross_every=_REVERSE_CROSS_EVERY,
        dropout=dropout,
        causal=False,
    )
    return ReverseQFormer(layout, config.generation_width)
