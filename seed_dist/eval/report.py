"""Writes report.json and report.html."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seed_dist.eval.page.document import render
from seed_dist.eval.results import Results
from seed_dist.fsio import write_json, write_text

JSON_NAME, HTML_NAME = "report.json", "report.html"
_DIGITS = 6


def write_report(folder: Path, results: Results) -> tuple[Path, Path]:
    """Both files, each complete or not there; the values are their paths."""
    numbers = {
        **results.numbers,
        "missing": [asdict(gap) for gap in results.gaps],
        "failures": [asdict(gap) for gap in results.failures],
    }
    json.dumps(numbers, allow_nan=False)  # a NaN would make the file unreadable elsewhere
    write_json(folder / JSON_NAME, rounded(numbers))
    write_text(folder / HTML_NAME, render(results))
    return folder / JSON_NAME, folder / HTML_NAME


def rounded(value: Any) -> Any:
    """Floats to six decimals: digits beyond carry nothing at these sample sizes. Small differences from 0 stay."""
    if isinstance(value, float):
        return round(value, _DIGITS) if abs(value) >= 10**-_DIGITS else value
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value
