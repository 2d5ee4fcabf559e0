"""How floating-point features are stored, and back: half precision, bfloat16, or 8 bits with a scale for each token.

A sample stays one .npy array of fixed size, so that a row is read by its offset alone:

    float16    fp16 [..., width]
    bfloat16   uint16 [..., width]: the upper half of the fp32 bits, because NumPy has no such type
    int8       int8 [..., width + 2]: the numbers, and in the last two bytes their scale as little-endian fp16
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PRECISIONS = ("float16", "bfloat16", "int8")
INT8_LARGEST = 127  # symmetric: -128 is not used
SCALE_BYTES = 2
_BFLOAT16_EXPONENT = 0x7F80  # all of these bits set: infinite or NaN


def stored_layout(dtype: str, shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of the array in the file for features [*shape] that the manifest calls `dtype`."""
    if dtype == "int8":
        return np.dtype(np.int8), (*shape[:-1], shape[-1] + SCALE_BYTES)
    return np.dtype("<u2" if dtype == "bfloat16" else dtype), shape


def decoded_dtype(dtype: str) -> np.dtype[Any]:
    """Type of the numbers to compute with: fp32 for bfloat16 and int8, which loses nothing; otherwise as stored."""
    return np.dtype(np.float32 if dtype in ("bfloat16", "int8") else dtype)


def decoded(stored: npt.NDArray[Any], dtype: str, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Stored features as numbers [..., width] of `decoded_dtype`; in `out`, where it is given."""
    if out is None:
        width = stored.shape[-1] - (SCALE_BYTES if dtype == "int8" else 0)
        out = np.empty((*stored.shape[:-1], width), decoded_dtype(dtype))
    if dtype == "bfloat16":
        np.left_shift(stored, 16, out=out.view(np.uint32), dtype=np.uint32)
    elif dtype == "int8":
        np.multiply(stored[..., :-SCALE_BYTES], _scales(stored), out=out, dtype=np.float32)
    else:
        out[...] = stored
    return out


def finite_rows(stored: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.bool_]:
    """[B]: whether all numbers of a stored sample [B, ...] are finite. Of int8 the scales tell."""
    if dtype == "bfloat16":
        finite = (stored & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT
    else:
        finite = np.isfinite(_scales(stored) if dtype == "int8" else stored)
    rows: npt.NDArray[np.bool_] = finite.reshape(len(stored), -1).all(axis=1)
    return rows


def _scales(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """fp16 [..., 1]"""
    return np.ascontiguousarray(stored[..., -SCALE_BYTES:]).view("<f2")
