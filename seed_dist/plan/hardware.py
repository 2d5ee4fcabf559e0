"""What a GPU can do at most: files `hardware/*.json`, each number with its source, or a file of the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from seed_dist.errors import ConfigError

FOLDER = Path(__file__).parent / "hardware"
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Hardware:
    """One accelerator. `peak_flops` by precision in FLOP/s; `memory_bytes_s` of its own memory, `link_bytes_s` to the
    others of its node in one direction; `share_of_peak` that trainings of this kind reach (low, high).

    `compute_capability` is null for what is no GPU.
    """

    name: str
    compute_capability: tuple[int, int] | None
    memory_bytes: Annotated[int, Field(gt=0)]
    peak_flops: Mapping[str, Positive]
    memory_bytes_s: Positive
    link_bytes_s: Positive
    share_of_peak: tuple[Share, Share]
    sources: Mapping[str, str]

    __pydantic_config__ = ConfigDict(extra="forbid")


def hardware_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_hardware(name_or_path: str) -> Hardware:
    """The hardware of that name, or of that JSON file. ConfigError names every value that is missing or wrong."""
    path = Path(name_or_path) if name_or_path.endswith(".json") else FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        raise ConfigError(
            [f"--hardware {name_or_path!r} is unknown; choose one of {', '.join(hardware_names())}, or a .json file"]
        )
    try:
        values: Any = json.loads(path.read_text())
        return TypeAdapter(Hardware).validate_python(values)
    except ValidationError as error:
        places = [(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        raise ConfigError([f"{path}: {place or 'the file'}: {message}" for place, message in places]) from None
    except ValueError as error:
        raise ConfigError([f"{path} is not JSON: {error}"]) from None
