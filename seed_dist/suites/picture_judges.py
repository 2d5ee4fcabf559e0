"""What frozen models see in originals, painted pictures and captions: the features that figures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from seed_dist.models.inception import Inception
from seed_dist.models.judge_weights import ALEXNET, INCEPTION
from seed_dist.models.perceptual_distance import PerceptualDistance
from seed_dist.models.vision import FrozenClip

Arrays = dict[str, npt.NDArray[np.float32]]
_CROP = "shortest side bicubic, then the middle, as OpenAI's CLIP"
_GREY = (128, 128, 128)


class PictureJudges:
    """`clip` is needed; without `inception` there is no FID and no Inception Score, without `lpips` no LPIPS.

    A CLIP without texts (a vision tower alone) gives no CLIP score. `not_measured`: figure -> what to give for it.
    """

    def __init__(
        self, clip: FrozenClip, inception: Inception | None = None, lpips: PerceptualDistance | None = None
    ) -> None:
        self._clip, self._inception, self._lpips = clip, inception, lpips
        self.models = {
            "clip": clip.details(),
            "inception": inception.details if inception else None,
            "lpips": lpips.details if lpips else None,
        }
        self.protocol = {
            "clip": f"{clip.image_size} px, {_CROP}",
            "lpips": "originals squashed to the painted size, bicubic" if lpips else None,
        }

    @property
    def not_measured(self) -> dict[str, str]:
        found = {}
        if not self._clip.joins_both:
            found["clip_score"] = "the CLIP judge reads no texts: --judge clip=FOLDER of a CLIP with both towers"
        if self._inception is None:
            found["fid, inception_score"] = f"--judge inception=FILE; {INCEPTION.wanted}"
        if self._lpips is None:
            found["lpips"] = f"--judge lpips=FILE; {ALEXNET.wanted}"
        return found

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Arrays:
        """By judge, features [B, ...]: `clip`, and `inception_RESIZE` with `logits_RESIZE`."""
        pixels = torch.stack([self._clip.preprocess(cropped(picture, self._clip.image_size)) for picture in pictures])
        found = {"clip": self._clip.image_embedding(pixels).float().cpu().numpy()}
        if self._inception is not None:
            features, logits = self._inception(pictures)
            resize = self._inception.resize
            found |= {f"inception_{resize}": features.numpy(), f"logits_{resize}": logits.numpy()}
        return found

    def of_captions(self, captions: Sequence[str]) -> Arrays:
        """`clip` [B, E], where it reads texts."""
        if not self._clip.joins_both:
            return {}
        return {"clip": self._clip.text_embedding(captions).float().cpu().numpy()}

    def distances(self, originals: Sequence[Image.Image], painted: Sequence[Image.Image]) -> dict[str, list[float]]:
        """`lpips` of each pair, and `lpips_grey` of the original and a grey picture; painted ones are of one size."""
        if self._lpips is None:
            return {}
        size = painted[0].size
        squashed = [picture.resize(size, Image.Resampling.BICUBIC) for picture in originals]
        grey = [Image.new("RGB", size, _GREY)] * len(squashed)
        return {
            "lpips": self._lpips(squashed, painted).tolist(),
            "lpips_grey": self._lpips(squashed, grey).tolist(),
        }


def cropped(picture: Image.Image, size_px: int) -> Image.Image:
    """The middle of a picture whose shorter side has become `size_px`."""
    width, height = (max(size_px, size_px * side // min(picture.size)) for side in picture.size)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size_px, top + size_px))
