"""Random weights of the published judges, in the layouts of the published files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

import seed_dist.models  # noqa: F401 - its torchvision guard lets torch_fidelity and torchvision load

import torchvision  # isort: skip
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # isort: skip


def save_inception(path: Path) -> Path:
    """As pt_inception-2015-12-05-6726825d.pth: the names of the network that was ported from TensorFlow."""
    torch.manual_seed(0)
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with pytest.MonkeyPatch.context() as patch:  # only to see what the class asks a file for
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("inception", ["2048"], empty)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor)  # so that a picture is still seen after 94 layers
    torch.save(network.state_dict(), path)
    return path


def save_alexnet(path: Path) -> Path:
    """As alexnet-owt-7be5be79.pth."""
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path
