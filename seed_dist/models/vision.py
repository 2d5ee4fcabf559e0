"""The frozen encoders: patch features for the Q-Former, image embeddings, text features, embeddings in a joint space.

One door for all of them; a folder's own configuration files say what it holds:

- `open_clip_config.json`: open_clip, both towers (`open_clip_model.py`);
- `model_index.json`: a diffusers pipeline, of which `image_encoder/` is used (`clip_vision.py`), or else
  `text_encoder/` (`stable_diffusion_text.py`);
- `config.json` of a BLIP-2 or its vision model (`eva_vision.py`), of a CLIPVisionModelWithProjection,
  or of a CLIPModel, which has both towers (`clip_model.py`).

Nothing here is ever trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from seed_dist.assets import resolve, weights_sha256
from seed_dist.errors import ConfigError, DataError
from seed_dist.models import clip_model, clip_vision, eva_vision, open_clip_model
from seed_dist.models.clip_model import ClipTowers
from seed_dist.models.clip_vision import ClipVision
from seed_dist.models.eva_vision import EvaVision
from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.open_clip_model import OpenClipModel
from seed_dist.models.stable_diffusion_text import StableDiffusionText

_Model: TypeAlias = OpenClipModel | ClipTowers | ClipVision | StableDiffusionText | EvaVision


@runtime_checkable
class SeesPictures(Protocol):
    """Pixels [B, 3, H, W] -> patch features [B, P, V] and embeddings [B, E], None where the model has none."""

    kind: str
    processor: SeedImageProcessor

    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor | None]: ...


@runtime_checkable
class ReadsTexts(Protocol):
    """B texts -> features [B, T, W]."""

    kind: str

    def text_features(self, texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class JoinsBoth(Protocol):
    """Embeddings of pictures and texts in one space, and the scale of their products."""

    kind: str

    def image_embedding(self, images: Tensor) -> Tensor: ...

    def text_embedding(self, texts: Sequence[str]) -> Tensor: ...

    def logit_scale(self) -> float: ...


class FrozenClip:
    """A frozen encoder in eval mode, without gradients, whatever its folder holds.

    Asking for what the model cannot do is a ConfigError that says which folders can. `option` is the one of the
    recipe's `backbones` that the reference was given for.
    """

    def __init__(self, reference: str, device: str | torch.device = "cpu", option: str | None = None) -> None:
        folder = resolve(reference, option)
        self.reference, self.device = reference, torch.device(device)
        self._model = _open(folder, self.device)
        self.weights_sha256 = weights_sha256(folder)

    @property
    def image_size(self) -> int:
        """Side of the square that pictures become, in pixels."""
        return self.processor.size_px

    @property
    def processor(self) -> SeedImageProcessor:
        """The pre-processing that the folder asks for."""
        return self._sees().processor

    @property
    def joins_both(self) -> bool:
        """Whether pictures and texts are put into one space."""
        return isinstance(self._model, JoinsBoth)

    def details(self) -> dict[str, Any]:
        """What a manifest must say so that features of other weights or pre-processing are never mixed in."""
        sees = isinstance(self._model, SeesPictures)
        preprocessing = self.processor.details() if sees else {}
        return {"encoder": self.reference, "weights_sha256": self.weights_sha256, "preprocessing": preprocessing}

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture of any size and mode as float32 [3, H, W]."""
        return self.processor.preprocess(image)

    @torch.inference_mode()
    def patch_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, V]: class token and patches after the last but one block, before any final norm.

        BLIP-2 takes the penultimate layer and normalises it by the `ln_vision` that is trained with the Q-Former,
        so the stored features come before that norm.
        """
        return self._sees().patches_and_embedding(images)[0]

    @torch.inference_mode()
    def image_embedding(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, E], not normalised: the target that the diffusion model is conditioned on."""
        if isinstance(self._model, JoinsBoth):
            return self._model.image_embedding(images)
        embedding = self._sees().patches_and_embedding(images)[1]
        return self._lacks("image embedding") if embedding is None else embedding

    @torch.inference_mode()
    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both of the above from one pass through the image tower; None where the model has no embedding."""
        return self._sees().patches_and_embedding(images)

    @torch.inference_mode()
    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        """B captions -> [B, E] in the joint space, not normalised."""
        return self._joins().text_embedding(texts)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """B captions -> [B, T, W]: the text tower's last hidden states, what Stable Diffusion is conditioned on."""
        return self._reads().text_features(texts)

    def logit_scale(self) -> float:
        return self._joins().logit_scale()

    def _sees(self) -> SeesPictures:
        return self._model if isinstance(self._model, SeesPictures) else self._lacks("features of pictures")

    def _reads(self) -> ReadsTexts:
        return self._model if isinstance(self._model, ReadsTexts) else self._lacks("features of texts")

    def _joins(self) -> JoinsBoth:
        return self._model if isinstance(self._model, JoinsBoth) else self._lacks("joint space of both")

    def _lacks(self, what: str) -> NoReturn:
        raise ConfigError(
            [
                f"backbone {self.reference!r} is a {self._model.kind} and has no {what}; give one that has: patches "
                "(BLIP-2, open_clip), image_embedding (open_clip, image_encoder/ of Stable unCLIP), text_features "
                "(open_clip, text_encoder/ of Stable Diffusion), a joint space of pictures and texts (open_clip, or a "
                "CLIPModel of transformers)"
            ]
        )


def processor_of(reference: str, option: str | None = None) -> SeedImageProcessor:
    """The pre-processing that an image encoder's folder asks for, without reading its weights."""
    kind, places = _kind(resolve(reference, option))
    if kind is StableDiffusionText:
        raise ConfigError([f"backbone {reference!r} is a {kind.kind}, which sees no pictures"])
    processor: SeedImageProcessor = kind.read_processor(*places)
    return processor


def _open(folder: Path, device: torch.device) -> _Model:
    kind, places = _kind(folder)
    model: _Model = kind(*places, device)
    return model


def _kind(folder: Path) -> tuple[Any, tuple[Path, ...]]:
    """The class of a folder's model and where its parts are, by its configuration files.

    DataError where none says what it is.
    """
    if (folder / open_clip_model.CONFIG_NAME).is_file():
        return OpenClipModel, (folder,)
    if (folder / "model_index.json").is_file():
        if (folder / "image_encoder").is_dir():
            return ClipVision, (folder / "image_encoder", folder / "feature_extractor")
        return StableDiffusionText, (folder,)
    model_type, architectures = _described(folder)
    if model_type in (eva_vision.MODEL_TYPE, eva_vision.WHOLE_MODEL_TYPE):
        return EvaVision, (folder,)
    if clip_model.ARCHITECTURE in architectures:
        return ClipTowers, (folder,)
    if clip_vision.ARCHITECTURE in architectures:
        return ClipVision, (folder, folder)
    raise DataError(
        f"{folder} is no encoder that is known here: it has no {open_clip_model.CONFIG_NAME} and no model_index.json, "
        f"and its config.json says model_type {model_type!r}, architectures {architectures}. Needed are model_type "
        f"{eva_vision.WHOLE_MODEL_TYPE} or {eva_vision.MODEL_TYPE}, {clip_model.ARCHITECTURE} or "
        f"{clip_vision.ARCHITECTURE}."
    )


def _described(folder: Path) -> tuple[object, list[str]]:
    """model_type and architectures of a transformers folder; nothing where it has no configuration."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text()) if path.is_file() else {}
        return values.get("model_type"), list(values.get("architectures") or [])
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a model's configuration ({error}). Copy or fetch it again.") from error
