"""The work of data_prep/encode.py: targets of a recipe for the splits of a workspace, in the order that they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seed_dist.config import Recipe
from seed_dist.data.manifest import Manifest, load_manifest
from seed_dist.encode.runner import encode_split
from seed_dist.encode.targets import EncoderMaker


@dataclass(frozen=True)
class EncodeRequest:
    """`batch_size` in samples; `threads` batches are decoded ahead; `device` is a torch device, or "auto"."""

    recipe: Recipe
    work: Path
    targets: Sequence[str]
    splits: Sequence[str]
    batch_size: int = 256
    threads: int = 1
    device: str = "auto"


def encode_workspace(request: EncodeRequest) -> Iterator[tuple[Path, Manifest]]:
    """Encode all targets of all splits; yields (folder, manifest) as each is finished.

    Targets that are made from the same source share one pass over it. All sources, weights and options are looked at
    before the first sample is encoded.
    """
    maker = EncoderMaker(request.recipe, request.work, _device(request.device))
    encoders = [maker.make(target) for target in dict.fromkeys(request.targets)]
    made_here = {encoder.target for encoder in encoders}
    sources = list(dict.fromkeys(encoder.source for encoder in encoders))
    for source in sources:
        if source not in made_here:
            for split in request.splits:
                load_manifest(_folder(request.work, source, split))
    for source in sorted(sources, key=("images", "patches", "causal").index):
        together = [encoder for encoder in encoders if encoder.source == source]
        for split in request.splits:
            outputs = {_folder(request.work, encoder.target, split): encoder for encoder in together}
            manifests = encode_split(_folder(request.work, source, split), outputs, request.batch_size, request.threads)
            yield from zip(outputs, manifests, strict=True)


def _folder(work: Path, name: str, split: str) -> Path:
    """Where images or the features of a target lie."""
    return work / "images" / split if name == "images" else work / "features" / name / split


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
