"""A causal language model's folder as transformers reads it, but whole: what is damaged or missing is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from seed_dist.errors import DataError, MismatchError
from seed_dist.models.model_files import listed


def read_causal_model(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and model, its weights in `dtype`.

    DataError for files that cannot be read. MismatchError lists weights that are missing: transformers itself gives
    those random values and a warning.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{folder} cannot be read as a language model of transformers ({_first_line(error)}). It needs "
            "config.json, weights as safetensors and the tokenizer's files, all of one model; copy it again."
        ) from error
    if found["missing_keys"]:
        raise MismatchError(
            f"the set of weights in {folder}",
            "; ".join(listed("missing", sorted(found["missing_keys"]))),
            f"all those of {type(model).__name__}",
            "Copy the folder again.",
        )
    return cast(Any, tokenizer), model


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
