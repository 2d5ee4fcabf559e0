"""Vector quantizer: nearest code, straight-through gradient, the published losses, and remedies against unused codes.

Published: uniform initialisation in +-1/size, squared Euclidean distance, trained by gradient through the codebook
loss. The options (k-means start, cosine distance, entropy term, revival of idle codes) are this project's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seed_dist.config import CodebookConfig
from seed_dist.models.code_usage import CodeUsage, SumOverRanks, Usage
from seed_dist.models.nearest import k_means, nearest_codes

_ENTROPY_VECTORS = 2048  # vectors of a batch that the entropy term looks at


class Quantized(NamedTuple):
    """codes: int64 [..]; vectors: [.., c] with straight-through gradient; loss terms: unweighted scalars."""

    codes: Tensor
    vectors: Tensor
    commitment: Tensor  # mean (sg[e] - z)^2
    codebook: Tensor  # mean (e - sg[z])^2
    entropy: Tensor  # 0 unless entropy_loss_weight > 0


class Revival(NamedTuple):
    """Rows [R] of the codebook, their new values [R, c] in fp32."""

    rows: Tensor
    values: Tensor


class VectorQuantizer(nn.Module):
    """Codebook `embedding` [size, width] and its usage statistics.

    With `distance: cosine` vectors and codes are brought to unit length before everything else.
    """

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.size, config.width)
        nn.init.uniform_(self.embedding.weight, -1 / config.size, 1 / config.size)
        self.usage_statistics = CodeUsage(config.size, config.usage_window_steps)

    def forward(self, encoded: Tensor) -> Quantized:
        """Encoded vectors [.., c] -> Quantized, all in fp32. The values of `vectors` are exactly those of the codes."""
        z = self.compared(encoded)
        codebook = self.code_vectors()
        codes = nearest_codes(z.flatten(0, -2), codebook).view(z.shape[:-1])
        e = F.embedding(codes, codebook)
        return Quantized(
            codes=codes,
            vectors=e.detach() + (z - z.detach()),  # the bracket is 0 and carries the gradient
            commitment=F.mse_loss(z, e.detach()),
            codebook=F.mse_loss(e, z.detach()),
            entropy=self._entropy(z.flatten(0, -2), codebook),
        )

    def codes(self, encoded: Tensor) -> Tensor:
        """Encoded vectors [.., c] -> int64 [..]; always compared in fp32."""
        z = self.compared(encoded)
        return nearest_codes(z.flatten(0, -2), self.code_vectors()).view(z.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [..] -> their vectors [.., c] in fp32."""
        return F.embedding(codes, self.code_vectors())

    def compared(self, encoded: Tensor) -> Tensor:
        """Encoded vectors [.., c] in fp32, as they are compared with `code_vectors`."""
        return self._on_sphere(encoded.float())

    def code_vectors(self) -> Tensor:
        """All code vectors [size, c] in fp32, as they are compared and decoded."""
        return self._on_sphere(self.embedding.weight.float())

    @torch.no_grad()
    def initialise_from(self, vectors: Tensor, seed: int) -> None:
        """Set the codebook to k-means centres of encoded vectors [N, c].

        Equal arguments give equal codebooks. Call it before the optimizer copies the parameters; in a run of several
        ranks all must pass the same vectors, or rank 0's result must be broadcast.
        """
        centres = k_means(self._on_sphere(vectors.float()), self.config.size, seed)
        self.embedding.weight.copy_(centres)

    def record_usage(self, codes: Tensor, sum_over_ranks: SumOverRanks = lambda counts: counts) -> None:
        """Count one global batch; see `CodeUsage.record`."""
        self.usage_statistics.record(codes, sum_over_ranks)

    def usage(self) -> Usage:
        """Used fraction and perplexity over the last `usage_window_steps` recorded global batches."""
        return self.usage_statistics.usage()

    @torch.no_grad()
    def revive(self, candidates: Tensor, seed: int, after_steps: int | None = None) -> Revival:
        """Re-draw the codes that were idle for `after_steps` recorded batches from `candidates` [N, c]. Where that is
        not given it is `revive_after_steps`.

        `candidates` are encoded vectors of the current global batch, gathered, so equal on all ranks; the draw
        depends on `seed` and the number of recorded batches, so all ranks agree. Nothing is drawn when
        that is 0.

        This writes the module's parameter only. An engine that keeps an fp32 master copy (ZeRO) overwrites the
        parameter from it in the next step, so the caller must write `values` into rows `rows` of the master copy too,
        and should zero the Adam moments of those rows.
        """
        after = self.config.revive_after_steps if after_steps is None else after_steps
        idle = self.usage_statistics.idle
        rows = (idle >= after).nonzero().flatten() if after > 0 else idle.new_empty(0)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + int(self.usage_statistics.steps))
        order = torch.randperm(len(candidates), generator=generator)[: len(rows)]
        rows = rows[: len(order)]  # fewer candidates than idle codes: the rest waits for the next batch
        values = self._on_sphere(candidates.detach().float())[order.to(candidates.device)]
        self.embedding.weight[rows] = values.to(self.embedding.weight.dtype)
        idle[rows] = 0
        return Revival(rows, values)

    def _on_sphere(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.config.distance == "cosine" else vectors

    def _entropy(self, z: Tensor, codebook: Tensor) -> Tensor:
        """Mean entropy of each vector's soft assignment minus the entropy of the mean assignment (nats, of this rank).

        Low when vectors are sure of their code and the codes are used evenly. The soft assignment is a softmax of
        minus the squared distance over its mean smallest value; at most 2048 evenly spaced vectors are looked at.
        """
        if self.config.entropy_loss_weight == 0:
            return z.new_zeros(())
        z = z[:: -(-len(z) // _ENTROPY_VECTORS)]
        distances = (z.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * z @ codebook.T).clamp(min=0)
        temperature = distances.detach().amin(1).mean().clamp(min=1e-8)
        log_p = F.log_softmax(-distances / temperature, dim=1)
        mean_p = log_p.exp().mean(0)
        log_mean_p = mean_p.clamp(min=torch.finfo(mean_p.dtype).tiny).log()  # finite gradient where a code has no share
        return -(log_p.exp() * log_p).sum(1).mean() + (mean_p * log_mean_p).sum()
