"""What the runner asks of an encoder."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed_dist.data.manifest import Manifest
from seed_dist.data.precision import INT8_LARGEST
from seed_dist.encode.batches import Batch, Preprocess

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int32": torch.int32}
_SMALLEST_SCALE = 2.0**-24  # of fp16


class Encoder(Protocol):
    """One kind of features. `source` is "images" or the target whose features it reads."""

    target: str
    source: str

    @property
    def preprocess(self) -> Preprocess | None:
        """Of images; None where the encoder does not look at them."""
        ...

    def details(self) -> dict[str, Any]:
        """For the manifest: encoder, weights_sha256, pre-processing, dtype and shape of one sample."""
        ...

    def check_source(self, source: Manifest) -> None:
        """MismatchError where the source was made by other weights than this encoder was trained on."""
        ...

    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        """[B, ...] as stored: of the layout that `seed_dist.data.precision` gives dtype and shape of `details()`."""
        ...


def as_array(values: Tensor, dtype: str) -> npt.NDArray[Any]:
    """A tensor on any device as it is stored, C-ordered; what is too large for the dtype becomes infinite."""
    if dtype == "int8":
        stored = _with_scales(values.float())
    elif dtype == "bfloat16":
        stored = values.bfloat16().view(torch.int16)
    else:
        stored = values.to(_DTYPES[dtype])
    array = np.ascontiguousarray(stored.cpu().numpy())
    return array.view(np.uint16) if dtype == "bfloat16" else array


def _with_scales(values: Tensor) -> Tensor:
    """fp32 [..., W] -> int8 [..., W + 2]: symmetric, one scale per token, off by at most half a scale.

    The scale is the largest magnitude / 127, rounded up to the next fp16, so that nothing is cut off. Where it is not
    finite the numbers mean nothing, and the token is found by its scale.
    """
    largest = values.abs().amax(-1, keepdim=True) / INT8_LARGEST
    scale = largest.half()
    above = (scale.view(torch.int16) + 1).view(torch.float16)  # of positive numbers the bits count upwards
    scale = torch.where(scale.float() < largest, above, scale)
    whole = (values / scale.float().clamp(min=_SMALLEST_SCALE)).round()
    numbers = whole.nan_to_num().clamp(-INT8_LARGEST, INT8_LARGEST).to(torch.int8)
    return torch.cat([numbers, scale.view(torch.int8)], dim=-1)
