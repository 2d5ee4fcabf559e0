"""Image ids as users give them, as tensors, lists or arrays: checked before anything is looked up by them."""

from __future__ import annotations

import torch
from torch import Tensor

from seed_dist.errors import DataError


def checked_ids(ids: object, queries: int, size: int) -> Tensor:
    """Integers of any width [B, `queries`], or one image's [`queries`] -> int64 [B, `queries`], each below `size`.

    DataError says what was given and what is needed.
    """
    wanted = f"integers of shape [images, {queries}] are needed"
    try:
        tensor = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"ids are a {type(ids).__name__} that makes no tensor ({error}), but {wanted}.") from error
    if tensor.ndim == 1 and len(tensor) == queries:
        tensor = tensor[None]
    elif tensor.shape == (0,):  # an empty list has neither columns nor a type
        tensor = torch.empty(0, queries, dtype=torch.int64)
    not_integers = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    if tensor.ndim != 2 or tensor.shape[1] != queries or not_integers:
        raise DataError(f"ids are {tensor.dtype} {tuple(tensor.shape)}, but {wanted}.")
    tensor = tensor.long()
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < size:
        raise DataError(
            f"ids reach from {int(tensor.min())} to {int(tensor.max())}, but this codebook has 0 to {size - 1}. "
            "Subtract the language model's offset of image tokens, or use the tokenizer that made the ids."
        )
    return tensor
