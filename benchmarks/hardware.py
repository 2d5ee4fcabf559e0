"""What a result was measured on, and where it is kept."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """Processor and cores that this process may use."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{model[1] if model else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def keep(name: str, values: dict[str, Any]) -> None:
    """Print a result and write it to results/NAME.json."""
    text = json.dumps({"hardware": hardware(), **values}, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    print(text, end="")
