"""Lets torchvision import beside a torch that it was not compiled for (a CPU-only torch with the registry's wheel).

torchvision registers the meta kernels of two detection operators at import and fails with "operator torchvision::nms
does not exist" when its compiled library did not load; open_clip, transformers, peft and diffusers then fail with
misleading messages. Nothing here uses those operators, so declaring their schemas is enough. Beside a matching
torchvision, whose own library declares them, this does nothing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # kept alive: its declarations vanish with it


def install() -> None:
    """Declare the operators that a mismatched torchvision misses; call before anything imports torchvision."""
    global _library  # noqa: PLW0603 - declared once per process
    if _library is not None or importlib.util.find_spec("torchvision") is None or _operators_load():
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


def _operators_load() -> bool:
    """Whether torchvision's compiled operators load into this torch, from the file that torchvision itself loads."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    package = importlib.machinery.PathFinder.find_spec("_C", list(spec.submodule_search_locations))
    if package is None or package.origin is None:
        return False
    try:
        torch.ops.load_library(package.origin)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
