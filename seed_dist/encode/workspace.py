"""The work of data_prep/encode.py: targets of a recipe for the splits of a workspace, in the order that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seed_dist.config import Recipe
from seed_dist.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from seed_dist.data.views import VIEWED, view_name
from seed_dist.dist.preempt import StopRequest
from seed_dist.encode.again import MadeBy, note_made_by
from seed_dist.encode.audit import Audit, audit_split
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.encoder import Encoder
from seed_dist.encode.runner import MAX_REJECT_FRACTION, EncodeOptions, encode_split
from seed_dist.encode.targets import EncoderMaker, device_for


@dataclass(frozen=True)
class EncodeRequest:
    """`batch_size` in samples; `threads` batches are decoded ahead; `device` is a torch device, or "auto".

    `dtype` is one of `seed_dist.data.precision.PRECISIONS`; `views` counts the plain view.
    """

    recipe: Recipe
    work: Path
    targets: Sequence[str]
    splits: Sequence[str]
    batch_size: int = 256
    threads: int = 1
    device: str = "auto"
    dtype: str = "float16"
    views: int = 1
    max_reject_fraction: float = MAX_REJECT_FRACTION
    stop: StopRequest = field(default_factory=StopRequest)


@dataclass(frozen=True)
class _Pass:
    """Everything that is made by going once over one source."""

    source: Path
    outputs: Mapping[Path, Encoder]
    options: EncodeOptions


def encode_workspace(request: EncodeRequest) -> Iterator[tuple[Path, Manifest]]:
    """Encode all targets of all splits; yields (folder, manifest) as each is finished.

    Targets that are made from the same source share one pass over it. All sources, weights and options are looked at
    before the first sample is encoded.
    """
    for work in _passes(request):
        for folder in work.outputs:
            if not (folder / MANIFEST_NAME).exists():  # nobody knows what an earlier version made a set with
                note_made_by(folder, MadeBy(request.recipe.as_dict(), request.batch_size))
        made = encode_split(work.source, work.outputs, work.options)
        yield from zip(work.outputs, made, strict=True)


def audit_workspace(request: EncodeRequest, samples: int, seed: int) -> Iterator[Audit]:
    """Encode that many random samples of each finished target and split again, and compare."""
    for work in _passes(request):
        for folder, encoder in work.outputs.items():
            yield audit_split(work.source, folder, encoder, work.options, samples, seed)


def _passes(request: EncodeRequest) -> list[_Pass]:
    """In the order that they need: what is a source of others comes first."""
    maker = EncoderMaker(request.recipe, request.work, device_for(request.device), request.dtype)
    encoders = [maker.make(target) for target in dict.fromkeys(request.targets)]
    made_here = {encoder.target for encoder in encoders}
    passes = []
    for source in sorted({encoder.source for encoder in encoders}, key=("images", "patches", "causal").index):
        for split in request.splits:
            for view in range(request.views):
                together = [e for e in encoders if e.source == source and (view == 0 or e.target in VIEWED)]
                if not together:
                    continue
                folder = _folder(request.work, view_name(source, view), split)
                if source not in made_here:
                    load_manifest(folder)  # raises where it is not finished
                outputs = {_folder(request.work, view_name(e.target, view), split): e for e in together}
                crop = Crop(request.recipe.seed, view) if view and source == "images" else None
                options = EncodeOptions(
                    request.batch_size, request.threads, crop, request.max_reject_fraction, stop=request.stop
                )
                passes.append(_Pass(folder, outputs, options))
    return passes


def _folder(work: Path, name: str, split: str) -> Path:
    """Where images or the features of a target lie."""
    return work / "images" / split if name == "images" else work / "features" / name / split
