"""Exported models on disk in the Hugging Face layout, config.json + model.safetensors: written whole, read strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import atomic_file, fingerprint, write_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = 1
_STATISTICS = ".usage_statistics."
_LISTED = 40  # names shown in a message before "and N more"
Section = TypeVar("Section")


def save_model(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write `config` and the weights, each file atomically, weights first. Training statistics stay out."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in exported_state(model).items()}
    with atomic_file(folder / WEIGHTS_NAME) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    write_json(folder / CONFIG_NAME, {"format": FORMAT, **config})


def exported_state(model: nn.Module) -> dict[str, Tensor]:
    """The module's state without usage statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if _STATISTICS not in f".{name}"}


def module_fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """16 hex digits of a module's weights (training statistics left out) and sizes, wherever the file came from."""
    digests = {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in exported_state(module).items()
    }
    return fingerprint({"config": dict(config), "weights": digests})


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """config.json of an exported model; DataError or MismatchError with the next action."""
    values = _read_object(folder)
    found = (values.get("model_type"), values.get("format"))
    if found != (model_type, FORMAT):
        path = folder / CONFIG_NAME
        raise MismatchError(f"(model_type, format) of {path}", found, (model_type, FORMAT), "Give the right folder.")
    return values


def read_model_type(folder: Path) -> object:
    """Which kind of exported model a folder holds, by its config.json."""
    return _read_object(folder).get("model_type")


def _read_object(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise DataError(
            f"{folder} holds no {CONFIG_NAME}. Give a folder written by save_pretrained (a stage's export/)."
        )
    try:
        values = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}). Export the model again.") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}, but an object is needed. Export the model again.")
    return values


def section(values: Mapping[str, Any], name: str, kind: type[Section], folder: Path) -> Section:
    """One dataclass of a config.json, checked like a recipe's section."""
    try:
        return TypeAdapter(kind).validate_python(values.get(name))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors())
        raise DataError(f"{folder / CONFIG_NAME}, section {name!r}: {problems}. Export the model again.") from None


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load model.safetensors strictly; the error lists every missing and unknown name and every wrong shape."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise DataError(f"{folder} holds no {WEIGHTS_NAME}. The export is incomplete: export the model again.")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} cannot be read ({error}). Copy or export it again.") from error
    load_strictly(model, weights, str(path))


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Put `weights` into the module; MismatchError lists all differences of names and shapes. Statistics start anew."""
    expected = exported_state(model)
    problems = [
        *listed("missing", sorted(expected.keys() - weights.keys())),
        *listed("unknown", sorted(weights.keys() - expected.keys())),
        *listed(
            "of another shape",
            [
                f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in weights and weights[name].shape != tensor.shape
            ],
        ),
    ]
    if problems:
        raise MismatchError(
            f"the set of weights in {origin}",
            "; ".join(problems),
            f"the {len(expected)} tensors of {type(model).__name__}",
            "Use the weights and the configuration of one and the same export.",
        )
    model.load_state_dict(dict(weights), strict=False)


def listed(what: str, names: Sequence[str]) -> list[str]:
    """One part of an error message: how many, and which; nothing for no names."""
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"{len(names)} {what}: {', '.join(names[:_LISTED])}{more}"]
