"""What the runner asks of an encoder."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seed_dist.data.manifest import Manifest
from seed_dist.encode.batches import Batch, Preprocess

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int32": torch.int32}


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
        """[B, *shape] in the dtype of `details()`."""
        ...


def as_array(values: Tensor, dtype: str) -> npt.NDArray[Any]:
    """A tensor on any device as a C-ordered array; what is too large for fp16 becomes infinite."""
    array: npt.NDArray[Any] = np.ascontiguousarray(values.to(_DTYPES[dtype]).cpu().numpy())
    return array
