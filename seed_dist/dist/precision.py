"""The precision of a run on a device, as torch names it."""

from __future__ import annotations

import torch

from seed_dist.dist.ds_config import Precision, resolve_precision

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_on(device: torch.device, requested: str) -> Precision:
    """See `resolve_precision`; ConfigError for what this device cannot do."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return resolve_precision(requested, capability)


def dtype_of(precision: Precision) -> torch.dtype:
    return _DTYPES[precision]
