"""What an image encoder's own folder says of pre-processing, in the two layouts that encoders come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from seed_dist.errors import DataError
from seed_dist.models.image_processor import PREPROCESSOR_NAME, SeedImageProcessor, read_settings, unusable


def open_clip_processor(path: Path) -> SeedImageProcessor:
    """Of an open_clip_config.json; open_clip's defaults, which are CLIP's, for what it omits."""
    config = read_settings(path)
    try:
        settings, side = config.get("preprocess_cfg", {}), config["model_cfg"]["vision_cfg"].get("image_size", 224)
        given = {key: tuple(map(float, settings[key])) for key in ("mean", "std") if key in settings}
        size_px = int(side if isinstance(side, int) else side[0])
        return SeedImageProcessor(size_px, settings.get("interpolation", "bicubic"), **given)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unusable(path, error) from error


def transformers_processor(folder: Path, size_px: int) -> SeedImageProcessor:
    """Of a folder's preprocessor_config.json; CLIP's own where the folder has none.

    `size_px` is what the model takes; DataError where the file says another size or an unknown interpolation.
    """
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return SeedImageProcessor(size_px)
    values = read_settings(path)
    try:
        stated = _side(values.get("crop_size") if values.get("do_center_crop") else values.get("size"))
        interpolation = Image.Resampling(values.get("resample", Image.Resampling.BICUBIC)).name.lower()
        mean, std = (tuple(map(float, values[name])) for name in ("image_mean", "image_std"))
        processor = SeedImageProcessor(size_px, interpolation, mean, std)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(path, error) from error
    if stated not in (None, size_px):
        raise DataError(
            f"{path} asks for {stated} px and {interpolation}, but the model takes {size_px} px. Use the file that "
            "belongs to the model."
        )
    return processor


def _side(size: Any) -> int | None:
    """224, {"shortest_edge": 224} and {"height": 224, "width": 224} are all written."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else int(size)
