"""The README's section on using a tokenizer, run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pictures import picture
from tests.unit.tokenize.tiny_tokenizer import LAYOUT, export


@pytest.fixture(scope="module")
def section(root) -> str:
    found = re.search(r"^## Use a trained tokenizer\n(.*?)^## ", (root / "README.md").read_text(), re.M | re.S)
    assert found, "the README has a section `## Use a trained tokenizer`"
    return found[1]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the section takes for granted: an export and two photos."""
    export(tmp_path / "runs" / "demo" / "codebook" / "export", generation_width=128)  # as the embedded painter reads
    photos = tmp_path / "path" / "to" / "photos"
    photos.mkdir(parents=True)
    (photos / "a.jpg").write_bytes(picture(0, "JPEG", size=(40, 30)))
    (photos / "b.png").write_bytes(picture(1, "PNG", size=(30, 40)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def test_the_python_example(section, place):
    (code,) = blocks(section, "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["ids"].shape == (2, LAYOUT.queries)
    assert names["embeddings"].shape == (2, 128)
    assert [picture.size for picture in names["pictures"]] == [(64, 64)] * 2
    assert names["unlike"][0].tobytes() != names["pictures"][0].tobytes()
    assert (names["tokenizer"].encode(names["pixel_values"]) == names["ids"]).all()
    promised = re.search(r"# (config\.json.*)", code)[1].split(", ")
    assert sorted(path.name for path in (place / "runs" / "copy").iterdir()) == promised


def test_the_commands(section, place, root):
    (script,) = blocks(section, "bash")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        ["bash", "-euc", script],
        cwd=place,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == (place / "runs" / "photos.tsv").read_text()
    assert len(run.stdout.splitlines()) == 2
    painted = sorted((place / "runs" / "painted").iterdir())
    assert [path.name for path in painted] == ["000001-a.png", "000002-b.png"]
    assert all(Image.open(path).size == (64, 64) for path in painted)
