"""The one pre-processing function: pictures of any size and mode to the pixel values that an image encoder reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.fsio import write_json
from seed_dist.pixels import UnusableImageError, as_rgb, check_size

PREPROCESSOR_NAME = "preprocessor_config.json"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# CLIP's, which every published encoder here shares (openai/CLIP, clip.py `_transform`).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_KIND = "SeedImageProcessor"
_WANTED = "Give PIL images (of files, by PIL.Image.open) or numpy arrays uint8 [height, width, 3]."

Picture: TypeAlias = Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SeedImageProcessor:
    """Upright RGB, squashed to a square of `size_px`, scaled to 0..1, normalised by `mean` and `std` of each channel.

    The settings are those of the encoder's own folder (`preprocessing.py`). The geometry is SEED's: its tokenizer
    squashes the whole picture (`blip_image_eval` of AILab-CVC/SEED, SEED_Tokenizer), where some folders crop.

    Pictures are PIL images of any mode, or numpy arrays uint8 [H, W, 3]. EXIF orientation is applied, transparency lies
    over white, 16 bits become 8, an animation gives the frame that it stands at: the rules of stored images, so that a
    picture has the same ids here and in a data set. It can be pickled, for the workers of a data loader.
    """

    size_px: int
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __post_init__(self) -> None:
        if self.interpolation not in _RESAMPLING:
            known = ", ".join(_RESAMPLING)
            raise ValueError(f"interpolation is {self.interpolation!r}; these are known: {known}")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SeedImageProcessor:
        """Read preprocessor_config.json; DataError names what is wrong with it."""
        path = Path(folder) / PREPROCESSOR_NAME
        values = read_settings(path)
        try:
            if values["image_processor_type"] != _KIND:
                raise ValueError(f"image_processor_type is {values['image_processor_type']!r}, not {_KIND!r}")
            interpolation = Image.Resampling(values["resample"]).name.lower()
            mean, std = tuple(map(float, values["image_mean"])), tuple(map(float, values["image_std"]))
            return cls(int(values["size"]["height"]), interpolation, mean, std)
        except (KeyError, TypeError, ValueError) as error:
            raise unusable(path, error) from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json under the names that transformers' image processors use."""
        values = {
            "image_processor_type": _KIND,
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": self.size_px, "width": self.size_px},
            "resample": int(_RESAMPLING[self.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(Path(folder) / PREPROCESSOR_NAME, values)

    def details(self) -> dict[str, Any]:
        """For manifests, which must tell apart features of other pre-processing."""
        return {
            "geometry": "squash",
            "size_px": self.size_px,
            "interpolation": self.interpolation,
            "mean": [round(value, 6) for value in self.mean],
            "std": [round(value, 6) for value in self.std],
        }

    def __call__(self, images: Picture | Sequence[Picture], first: int = 0) -> Tensor:
        """A picture, or B of them -> pixel values, float32 [B, 3, S, S] on the CPU.

        DataError says which picture cannot be used and why, counting from `first`.
        """
        pictures = as_pictures(images)
        if not pictures:
            return torch.empty(0, 3, self.size_px, self.size_px)
        return torch.stack([self._numbered(number, picture) for number, picture in enumerate(pictures, first)])

    def preprocess(self, image: Image.Image) -> Tensor:
        """One picture of any size and mode as float32 [3, S, S]."""
        size = (self.size_px, self.size_px)
        image = as_rgb(image)
        if image.size != size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _numbered(self, number: int, picture: Picture) -> Tensor:
        image = picture if isinstance(picture, Image.Image) else _of_array(number, picture)
        try:
            check_size(*image.size)
            return self.preprocess(image)
        except (UnusableImageError, OSError, SyntaxError, ValueError) as error:  # Pillow decodes only now
            name = getattr(image, "filename", "")
            of = f" ({name})" if name else ""
            raise DataError(f"picture {number}{of} cannot be used: {error}. Mend it, or leave it away.") from error


def as_pictures(images: object) -> list[Any]:
    """Pictures as a list; one picture alone is a list of one. DataError where these are no pictures at all."""
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    if isinstance(images, (list, tuple, np.ndarray)):
        return list(images)
    raise DataError(f"images are a {type(images).__name__}. {_WANTED}")


def _of_array(number: int, array: object) -> Image.Image:
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return Image.fromarray(array)
    found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    raise DataError(f"picture {number} is {found}. {_WANTED}")


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError where there is none."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path.parent} holds no {path.name}. Give the folder of a model that has one.") from None
    except ValueError as error:
        raise unusable(path, error) from error
    if not isinstance(values, dict):
        raise unusable(path, TypeError(f"it holds a {type(values).__name__}, not an object"))
    return values


def unusable(path: Path, error: Exception) -> DataError:
    """What to raise for a file of settings that cannot be read."""
    return DataError(
        f"{path} does not say how pictures are pre-processed ({type(error).__name__}: {error}). Copy it again."
    )
