"""Fetching from a hub on the loopback interface with the library's own client: whole, interrupted, damaged, refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed_dist.assets import resolve, weights_sha256
from seed_dist.assets.manifest import MANIFEST_NAME
from seed_dist.errors import ConfigError, DataError
from tests.unit.assets.hub_server import Hub, serving

REVISION = "0123456789abcdef0123456789abcdef01234567"
REFERENCE = f"hub:lab/model@{REVISION}"
WANTED = {
    "README.md": b"# Model\n",
    "config.json": b'{"model_type": "clip_vision_model"}',
    "model.safetensors": os.urandom(300_000),
    "tokenizer/vocab.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "model.fp16.safetensors": b"half",
    ".gitattributes": b"*",
    "flax.msgpack": b"f",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("SEED_DIST_ASSETS", str(tmp_path / "assets"))
    with serving(Hub("lab/model", REVISION, WANTED | UNWANTED, {"license": "mit"})) as server:
        yield server


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return {**os.environ, **own}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "seed_dist.assets", *words]


def run(hub: Hub, tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=environment(hub, tmp_path) | more, capture_output=True, text=True, timeout=60, check=False
    )


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST_NAME).read_text())


def test_what_is_wanted_comes_and_is_found_offline(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)has not been fetched.*python -m seed_dist.assets fetch {REFERENCE}"):
        resolve(REFERENCE)
    done = run(hub, tmp_path, "fetch", REFERENCE)
    assert done.returncode == 0, done.stderr
    assert "4 files, 0.000 GB, licence mit" in done.stdout
    hub.shutdown()
    folder = resolve(REFERENCE)
    files = content(folder)
    record = manifest(folder)
    assert {name: data for name, data in files.items() if name != MANIFEST_NAME} == WANTED
    assert (record["reference"], record["revision"], record["licence"]) == (REFERENCE, REVISION, "mit")
    assert record["files"] == {
        name: {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in WANTED.items()
    }
    assert run(hub, tmp_path, "verify").stdout.startswith(f"verified  {REFERENCE}")
    fingerprint = weights_sha256(folder)
    (folder / MANIFEST_NAME).write_text(json.dumps({**record, "fetched": "later"}))
    weights_sha256.cache_clear()
    assert weights_sha256(folder) == fingerprint, "the same files are the same weights, whenever they came"


def test_a_transfer_that_breaks_off_goes_on_within_the_file(hub: Hub, tmp_path: Path) -> None:
    """From the last whole chunk (10 MiB) of the client."""
    hub.files["model.safetensors"] = os.urandom(13 * 2**20)
    hub.cut_once["model.safetensors"] = 12 * 2**20
    assert run(hub, tmp_path, "fetch", REFERENCE).returncode == 0
    assert [first for name, first in hub.sent if name == "model.safetensors"] == [0, 10 * 2**20]
    assert content(resolve(REFERENCE))["model.safetensors"] == hub.files["model.safetensors"]


def test_a_fetch_that_was_killed_keeps_finished_files_and_is_not_used(hub: Hub, tmp_path: Path) -> None:
    hub.hang_at["model.safetensors"] = 100_000
    process = subprocess.Popen(command("fetch", REFERENCE), env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)
    assert hub.hanging.wait(30)
    partial = tmp_path / "assets" / "lab--model" / f"{REVISION}.partial"
    for _ in range(300):
        if len(list(partial.rglob("*.metadata"))) == len(WANTED) - 1:  # the client's mark of a finished file
            break
        hub.released.wait(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(ConfigError, match="has not been fetched"):
        resolve(REFERENCE)
    hub.hang_at.clear()
    hub.released.set()
    hub.sent.clear()
    done = run(hub, tmp_path, "fetch", REFERENCE)
    assert done.returncode == 0, done.stderr
    assert hub.sent == [("model.safetensors", 0)]
    assert set(content(resolve(REFERENCE))) == {*WANTED, MANIFEST_NAME}


def test_a_file_that_is_not_what_the_hub_states_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated["model.safetensors"] = "f" * 64
    done = run(hub, tmp_path, "fetch", REFERENCE)
    assert done.returncode == 4
    arrived = hashlib.sha256(WANTED["model.safetensors"]).hexdigest()
    assert f"checksum of model.safetensors as it arrived is '{arrived}'" in done.stderr
    with pytest.raises(ConfigError, match="has not been fetched"):
        resolve(REFERENCE)
    hub.stated.clear()
    assert run(hub, tmp_path, "fetch", REFERENCE).returncode == 0


def test_a_missing_licence_is_said_and_recorded(hub: Hub, tmp_path: Path) -> None:
    hub.card = {}
    done = run(hub, tmp_path, "fetch", REFERENCE)
    assert done.returncode == 0
    assert "names no licence" in done.stdout
    assert manifest(resolve(REFERENCE))["licence"] is None


def test_verify_names_every_file_and_fetch_mends_them(hub: Hub, tmp_path: Path) -> None:
    assert run(hub, tmp_path, "fetch", REFERENCE).returncode == 0
    folder = resolve(REFERENCE)
    changed = bytearray(WANTED["model.safetensors"])
    changed[1234] ^= 1
    (folder / "model.safetensors").write_bytes(changed)
    (folder / "pytorch_model.bin").write_bytes(b"slipped in")
    resolve(REFERENCE)  # sizes and names are right: only reading all bytes can tell
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        resolve(REFERENCE)
    done = run(hub, tmp_path, "verify")
    assert done.returncode == 3
    for part in ("config.json is missing", "model.safetensors has SHA-256", "pytorch_model.bin did not come"):
        assert part in done.stderr
    hub.sent.clear()
    assert run(hub, tmp_path, "fetch", REFERENCE).returncode == 0
    assert {name for name, _ in hub.sent} >= {"model.safetensors", "config.json"}
    assert run(hub, tmp_path, "verify", REFERENCE).returncode == 0
    hub.sent.clear()
    assert run(hub, tmp_path, "fetch", REFERENCE).stdout.startswith("complete")
    assert hub.sent == []


@pytest.mark.parametrize(
    ("reference", "code", "text", "more"),
    [
        (f"hub:lab/model@{'e' * 40}", 2, "has no commit eeee", {}),
        (f"hub:lab/other@{REVISION}", 2, "is not on the hub, or not for you", {}),
        (REFERENCE, 2, "HF_HUB_OFFLINE is set", {"HF_HUB_OFFLINE": "1"}),
        (REFERENCE, 1, "run the same command again to go on", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("hub:lab/model@main", 2, "A branch or tag is not enough", {}),
        ("somewhere", 2, "is no hub reference", {}),
    ],
)
def test_refusals(reference: str, code: int, text: str, more: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "fetch", reference, **more)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_names_what_to_fetch(hub: Hub, tmp_path: Path) -> None:
    recipe = ("--recipe", "glyphs", "--set", f"backbones.painter={REFERENCE}")
    missing = run(hub, tmp_path, "verify", *recipe)
    assert missing.returncode == 3
    assert f"python -m seed_dist.assets fetch {REFERENCE}" in missing.stderr
    done = run(hub, tmp_path, "fetch", *recipe)
    assert done.returncode == 0
    assert "embedded:language: not from the hub" in done.stdout
    assert run(hub, tmp_path, "verify", *recipe, "--only", "painter").returncode == 0
