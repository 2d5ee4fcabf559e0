"""The guard, in new interpreters: after it torchvision and open_clip import, and it acts only where it is needed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)

PLAIN = """
import json
try:
    import torchvision
    print(json.dumps(None))
except RuntimeError as error:
    print(json.dumps(str(error)))
"""

GUARDED = """
import json
from seed_dist.models import torchvision_guard
declared = torchvision_guard._library is not None
torchvision_guard.install()
import torch, torchvision, open_clip
print(json.dumps([declared, hasattr(torch.ops.torchvision, "nms"), open_clip.__name__]))
"""

STAND_IN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
library = torch.library.Library("torchvision", "DEF")  # what a matching library's own start-up code does
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from seed_dist.models import torchvision_guard
torchvision_guard.install()
print(json.dumps([torchvision_guard._library is None, hasattr(torch.ops.torchvision, "qnms")]))
"""

ABSENT = """
import importlib.util, json
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torchvision" else find(name, *rest)
from seed_dist.models import torchvision_guard
torchvision_guard.install()
print(json.dumps(torchvision_guard._library is None))
"""


def run(code: str, *arguments: str) -> Any:
    """The JSON that `code` prints last in an interpreter of its own: operators cannot be undeclared."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@needs_torchvision
def test_torchvision_imports_and_the_guard_acts_only_where_it_is_needed() -> None:
    error = run(PLAIN)
    declared, has_operator, imported = run(GUARDED)
    assert has_operator
    assert imported == "open_clip"
    assert declared == (error is not None)
    if error is not None:
        assert "torchvision::nms" in error


def test_a_matching_torchvision_is_left_alone(tmp_path: Path) -> None:
    """Its compiled file loads (any loadable library stands in for it) and its operators are there."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    loadable = importlib.util.find_spec("_ctypes")
    assert loadable
    assert loadable.origin
    suffix = "".join(Path(loadable.origin).suffixes)
    shutil.copy(loadable.origin, package / f"_C{suffix}")
    assert run(STAND_IN, str(tmp_path)) == [True, False]


def test_without_torchvision_nothing_is_declared() -> None:
    assert run(ABSENT) is True
