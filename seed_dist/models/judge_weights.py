"""Weights of the published judges of pictures: a file that the user names, read as data, told by its SHA-256."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.fsio import sha256_bytes

_SHOWN = 160  # characters of what torch has against them


@dataclass(frozen=True)
class Published:
    """A file that a measure is defined by. Its name ends with the first 8 digits of its SHA-256, as torch.hub wants."""

    url: str

    @property
    def sha256_start(self) -> str:
        return self.url.rpartition("-")[2].partition(".")[0]

    @property
    def wanted(self) -> str:
        """What to do about a file that is not there."""
        return f"download {self.url} (its SHA-256 begins with {self.sha256_start})"


# The TensorFlow network of 2015-12-05 that FID and Inception Score are defined by, ported by mseitzer/pytorch-fid.
INCEPTION = Published(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
# torchvision's AlexNet, under LPIPS' own layers, which come with the package `lpips`.
ALEXNET = Published("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth")


@dataclass(frozen=True, eq=False)
class JudgeWeights:
    """A file's bytes, which hold tensors and nothing else. `details` for receipts: is it the published one?"""

    path: Path
    data: bytes
    details: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(io.BytesIO(self.data), map_location="cpu", weights_only=True)
        return found


def read_judge_weights(path: Path, published: Published) -> JudgeWeights:
    """DataError for a file that is not there, damaged, or more than tensors; any weights in the layout may judge."""
    try:
        data = path.read_bytes()
        weights = JudgeWeights(path, data, _details(data, published))
        if not isinstance(weights.tensors(), dict):
            raise ValueError("it holds no dictionary of tensors")
    except Exception as error:  # a damaged or hostile file makes the reader raise nearly anything
        cause = (str(error).strip() or type(error).__name__).split(". ")[0]
        raise DataError(
            f"{path} cannot be read as weights ({cause}). For the published ones, {published.wanted}."
        ) from error
    return weights


def unfit(weights: JudgeWeights, published: Published, error: Exception) -> DataError:
    """For weights that are of another network."""
    found = " ".join(str(error).split())[:_SHOWN]
    return DataError(
        f"{weights.path} holds weights of another network ({found} ...). For what fits, {published.wanted}."
    )


def _details(data: bytes, published: Published) -> dict[str, Any]:
    sha256 = sha256_bytes(data)
    return {"weights_sha256": sha256, "published": sha256.startswith(published.sha256_start)}
