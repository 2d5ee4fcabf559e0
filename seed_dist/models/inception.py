"""The Inception network that FID and the Inception Score are defined by, from a file of its published weights.

The network is torch-fidelity's; the resizing to 299 px, which changes figures by whole points, is part of a figure's
name: `clean` is Pillow's antialiased bicubic of each channel in float (Parmar et al. 2022, arXiv 2104.11222), `legacy`
the bilinear of TensorFlow 1 without antialiasing, as in the first FIDs.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from seed_dist.models.judge_weights import INCEPTION, JudgeWeights, unfit

SIZE_PX = 299
Resize = Literal["clean", "legacy"]


class Inception:
    """Pictures of any sizes -> features [B, 2048] and logits [B, 1008] without bias, float32 on the CPU."""

    def __init__(self, weights: JudgeWeights, resize: Resize = "clean", device: str | torch.device = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        assert resize in ("clean", "legacy"), resize
        self.resize, self.device = resize, torch.device(device)
        try:  # the class unpickles: these bytes have been found to hold tensors only
            network: Any = FeatureExtractorInceptionV3("inception", ["2048"], io.BytesIO(weights.data))
        except RuntimeError as error:
            raise unfit(weights, INCEPTION, error) from error
        *layers, self._classify = (
            network.to(self.device).eval().children()
        )  # in the order in which its forward calls them
        self._features = nn.Sequential(*layers, nn.Flatten())
        self.details = {**weights.details, "resize": f"{SIZE_PX} px, {_RESIZES[resize]}"}

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        resized = _clean if self.resize == "clean" else _legacy
        pixels = torch.cat([resized(picture.convert("RGB")) for picture in pictures]).to(self.device)
        features = self._features((pixels - 128) / 128)
        return features.cpu(), (features @ self._classify.weight.T).cpu()


_RESIZES = {
    "clean": "Pillow bicubic, antialiased, in float (clean-fid)",
    "legacy": "bilinear as TensorFlow 1, not antialiased",
}


def _clean(picture: Image.Image) -> Tensor:
    """0..255, float32 [1, 3, 299, 299]."""
    channels = [Image.fromarray(np.asarray(channel, dtype=np.float32)) for channel in picture.split()]
    resized = [channel.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC) for channel in channels]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in resized]).clip(0, 255))[None]


def _legacy(picture: Image.Image) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    resized: Tensor = interpolate_bilinear_2d_like_tensorflow1x(pixels, (SIZE_PX, SIZE_PX), align_corners=False)
    return resized
