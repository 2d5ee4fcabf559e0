"""What a result was measured on and with, and where it is kept. Absolute figures belong to that machine alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """Processor and cores that this process may use."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{model[1] if model else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def load() -> float:
    """Processes that want a processor, over the last minute: what else the machine was doing."""
    return round(os.getloadavg()[0], 2)


def keep(name: str, values: dict[str, Any], packages: Sequence[str] = ()) -> None:
    """Print a result with the machine and the versions of `packages`, and write it to results/NAME.json."""
    versions = {"python": platform.python_version(), **{item: importlib.metadata.version(item) for item in packages}}
    text = json.dumps({"hardware": hardware(), "versions": versions, **values}, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    print(text, end="")
