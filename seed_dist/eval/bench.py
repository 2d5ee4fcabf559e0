"""One split on the bench: features and model outputs that several measurements share, each computed at first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.errors import MismatchError
from seed_dist.eval.metrics import require_finite
from seed_dist.eval.results import Example, ShownCode
from seed_dist.eval.workspace import Split, Workspace

_PROBES = 32  # samples on which stored features are compared with what the present models make of their source
_MIN_AGREEMENT = 0.99  # of cosines or of equal codes; stale features agree far less, rounding disturbs far less


class Bench:
    """Captions, stored features and outputs of one split, rows aligned; `examples` are its first images. Of
    `asked_codes`, or of some that are chosen, `shown_codes` are to show who uses them.
    """

    def __init__(self, workspace: Workspace, split: Split, shown: int, asked_codes: Sequence[int] = ()) -> None:
        self.workspace, self.split, self.recipe = workspace, split, workspace.recipe
        self.captions, self.asked_codes = split.captions, asked_codes
        self.shown_codes: list[ShownCode] = []
        self.examples = [
            Example(caption, split.images.image(i)) for i, caption in enumerate(self.captions[: min(shown, len(split))])
        ]

    def first(self, target: str, count: int) -> Tensor:
        """Stored features of the first `count` images."""
        return self.split.read(target, np.arange(min(count, len(self.split)), dtype=np.int64))

    @cached_property
    def text_features(self) -> Tensor:
        """Unit vectors [N, D] of the captions; equal captions get bit-equal vectors, so that they tie."""
        workspace = self.workspace
        distinct = list(dict.fromkeys(self.captions))
        parts = []
        for start in range(0, len(distinct), self.recipe.eval.batch_size):
            ids, mask = workspace.caption_tokenizer(distinct[start : start + self.recipe.eval.batch_size])
            with torch.no_grad():
                hidden = workspace.qformer.embed_text(ids.to(workspace.device), mask.to(workspace.device))
                parts.append(workspace.qformer.text_feature(hidden).cpu())
        row = {caption: i for i, caption in enumerate(distinct)}
        return torch.cat(parts)[[row[caption] for caption in self.captions]]

    @cached_property
    def causal(self) -> Tensor:
        """Causal embeddings [N, Q, W] as stored, float32; checked to be the present Q-Former's."""
        stored = self.split.read("causal").float()
        with torch.no_grad():
            patches = self.first("patches", _PROBES).to(self.workspace.device)
            fresh = self.workspace.qformer.embed_image(patches).float().cpu()
        agreement = float(F.cosine_similarity(fresh, stored[: len(fresh)], dim=-1).mean())
        self._require("causal", "causal_qformer", agreement)
        return stored

    @cached_property
    def codes(self) -> Tensor:
        """Codes int64 [N, Q]; checked to be the present tokenizer's."""
        stored = self.split.read("codes").long()
        fresh = self.workspace.tokenizer.quantizer.codes(self.first("causal", _PROBES).to(self.workspace.device)).cpu()
        same = fresh.shape == stored[: len(fresh)].shape and float((fresh == stored[: len(fresh)]).double().mean())
        self._require("codes", "codebook", float(same))
        return stored

    @cached_property
    def rebuilt(self) -> Tensor:
        """Causal embeddings rebuilt from the codes [N, Q, W]."""
        return require_finite(self.workspace.tokenizer.reconstruct(self.codes).float(), "codebook")

    @cached_property
    def generated(self) -> Tensor:
        """Generation embeddings from the codes [N, G] or [N, T, G]."""
        return self.embeddings(self.codes)

    def embeddings(self, codes: Tensor) -> Tensor:
        """Generation embeddings of any codes [B, Q]."""
        return require_finite(self.workspace.tokenizer.decode_embeddings(codes).float(), "codebook")

    def image_feature(self, causal: Tensor) -> Tensor:
        """Unit vectors [N, D] of causal embeddings [N, Q, W] through the stage-1 head."""
        with torch.no_grad():
            return self.workspace.qformer.image_feature(causal.to(self.workspace.device)).cpu()

    def _require(self, target: str, stage: str, agreement: float) -> None:
        if not agreement >= _MIN_AGREEMENT:
            raise MismatchError(
                f"agreement of features/{target}/{self.split.name} with what {stage}/export makes now",
                round(agreement, 3),
                f"at least {_MIN_AGREEMENT}",
                f"They come from an earlier training: delete them and run {self._encode(target)}",
            )

    def _encode(self, target: str) -> str:
        return self.workspace.invocation.encode(target, self.split.name)
