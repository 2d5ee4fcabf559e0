"""What stage 3 trained, in either form in which people hold it: the adapter that it exported, or the merged model."""

from __future__ import annotations

from pathlib import Path

import torch

from seed_dist.errors import ConfigError, DataError
from seed_dist.models.code_order import Order
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.language import DESCRIPTION, SeedLanguageModel
from seed_dist.models.merged_language import MergedLanguageModel, is_merged
from seed_dist.models.model_files import CONFIG_NAME, read_model_type


def open_language(
    folder: Path,
    base: str | None = None,
    dtype: torch.dtype = torch.float32,
    code_order: Order = "causal",
) -> ImageLanguage:
    """The model of a folder, in eval mode. `base` and `code_order`: of an adapter, see `SeedLanguageModel.from_export`.

    DataError for a folder that is neither, ConfigError for a base that nothing would be read from.
    """
    if (folder / DESCRIPTION).is_file():
        return SeedLanguageModel.from_export(folder, base, dtype, code_order)
    give = (
        "Give the export/ of stage lora, or a folder that was made of it: "
        "python -m seed_dist.convert WORK/lora/export OUT"
    )
    if not is_merged(folder):
        raise DataError(f"{folder} holds neither an adapter ({DESCRIPTION}) nor a merged model ({CONFIG_NAME}). {give}")
    if (kind := str(read_model_type(folder))).startswith("seed_"):
        raise DataError(f"{folder} holds a {kind}, which is no language model. {give}")
    if base is not None:
        raise ConfigError(
            [f"--backbone language_model={base}: the merged model in {folder} has its base within; leave it away"]
        )
    return MergedLanguageModel(folder, dtype)
