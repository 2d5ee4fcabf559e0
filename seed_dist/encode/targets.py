"""From the name of a target to its encoder. Models are imported when one is made: command lines start at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.config import Recipe
from seed_dist.errors import ConfigError, DataError
from seed_dist.topology import world_from_environment

if TYPE_CHECKING:
    from seed_dist.encode.clip_targets import ClipImages
    from seed_dist.encode.encoder import Encoder
    from seed_dist.models.vision import FrozenClip

TARGETS = ("patches", "image_embedding", "text_features", "causal", "codes")
STORED_AS_ASKED = ("patches", "causal")  # large, and read by layers that normalise: stored as asked for


def device_for(wanted: str) -> str:
    """A torch device. `auto`: of several processes that srun or torchrun started on a node, each takes its own GPU."""
    if wanted != "auto":
        return wanted
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{world_from_environment().local_rank % gpus}" if gpus else "cpu"


class EncoderMaker:
    """Makes the encoders of a recipe in a workspace; those on one CLIP share it."""

    def __init__(self, recipe: Recipe, work: Path, device: str, dtype: str = "float16") -> None:
        """`dtype` is how STORED_AS_ASKED are stored, one of `seed_dist.data.precision.PRECISIONS`."""
        self._recipe, self._work, self._device, self._dtype = recipe, work, device, dtype
        self._clips: dict[str, FrozenClip] = {}
        self._images: dict[str, ClipImages] = {}

    def make(self, target: str) -> Encoder:
        """One of TARGETS. DataError where the stage that exports its weights has not been trained yet."""
        if target == "patches":
            from seed_dist.encode.clip_targets import PatchEncoder

            return PatchEncoder(self._clip_images("image_encoder"), self._dtype)
        if target == "image_embedding":
            from seed_dist.encode.clip_targets import ImageEmbeddingEncoder

            return ImageEmbeddingEncoder(self._clip_images("generation_encoder"))
        if target == "text_features":
            from seed_dist.encode.clip_targets import TextFeatureEncoder

            return TextFeatureEncoder(self._clip("generation_encoder"))
        if target == "causal":
            from seed_dist.encode.export_targets import CausalEncoder

            image_encoder = self._recipe.backbones.image_encoder
            return CausalEncoder(self._export("causal_qformer"), image_encoder, self._device, self._dtype)
        if target == "codes":
            from seed_dist.encode.export_targets import CodeEncoder

            return CodeEncoder(self._export("codebook"), self._device)
        raise ConfigError([f"target {target!r} is unknown; choose among {', '.join(TARGETS)}"])

    def _clip(self, option: str) -> FrozenClip:
        from seed_dist.models.vision import FrozenClip

        reference = getattr(self._recipe.backbones, option)
        if reference not in self._clips:
            self._clips[reference] = FrozenClip(reference, self._device, option)
        return self._clips[reference]

    def _clip_images(self, option: str) -> ClipImages:
        from seed_dist.encode.clip_targets import ClipImages

        clip = self._clip(option)
        if clip.reference not in self._images:
            self._images[clip.reference] = ClipImages(clip)
        return self._images[clip.reference]

    def _export(self, stage: str) -> Path:
        folder = self._work / stage / "export"
        if not folder.is_dir():
            raise DataError(
                f"{folder} does not exist: the stage {stage} is not finished. Run "
                f"python -m seed_dist.train --recipe {self._recipe.name} --stage {stage} --work {self._work} first."
            )
        return folder
