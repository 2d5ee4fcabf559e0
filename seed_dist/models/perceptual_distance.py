"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1 on AlexNet, as its authors' package computes it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seed_dist.models.judge_weights import ALEXNET, JudgeWeights, unfit


class PerceptualDistance:
    """Distances of B pairs of pictures, equal in size, at least 32 px a side: float32 [B] on the CPU.

    AlexNet comes from a file of torchvision's weights, the layers over it from the package.
    """

    def __init__(self, weights: JudgeWeights, device: str | torch.device = "cpu") -> None:
        import lpips

        self.device = torch.device(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how the package asks torchvision for an AlexNet without weights
            model: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        given = weights.tensors()
        try:
            # `slice2.3.weight` there is `features.3.weight` in torchvision's file.
            layers = {name: given[f"features.{name.partition('.')[2]}"] for name in model.net.state_dict()}
            model.net.load_state_dict(layers)
        except (KeyError, RuntimeError) as error:
            raise unfit(weights, ALEXNET, error) from error
        self._model = model.to(self.device).eval().requires_grad_(False)
        self.details = {**weights.details, "layers": f"AlexNet, v0.1 of lpips {version('lpips')}"}

    @torch.inference_mode()
    def __call__(self, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Tensor:
        distances: Tensor = self._model(*(self._pixels(pictures) for pictures in (first, second)))
        return distances.flatten().cpu()

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """-1..1, [B, 3, H, W]."""
        arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        return torch.from_numpy(arrays).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
