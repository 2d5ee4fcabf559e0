"""Benchmarks are run by hand; that each still fits the code it measures is seen by importing it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_importable_and_says_its_command(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "main"):
        assert f"python -m benchmarks.{name}" in (module.__doc__ or "")


def test_there_are_benchmarks() -> None:
    assert len(BENCHMARKS) > 5
