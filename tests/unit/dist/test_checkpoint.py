"""Which checkpoint is loaded: whatever is wrong with one, it is passed over loudly or training stops; never a bad load,
never silently from nothing.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seed_dist.dist.checkpoint import MANIFEST, list_checkpoints, newest_checkpoint, verify_checkpoint
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import CheckpointError
from seed_dist.fsio import sha256_file
from seed_dist.train.state import TrainState
from tests.forked import values, world

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint_format_1"
RANK_FILE = "rank_00001.safetensors"
COMM = LocalComm()


def put(checkpoints: Path, *steps: int) -> list[Path]:
    """Whole checkpoints of these steps: the one that is kept with the tests, under other names."""
    paths = [checkpoints / f"step_{step:08d}" for step in steps]
    for path in paths:
        shutil.copytree(GOLDEN / "step_00000004", path)
    return paths


def rewrite_manifest(path: Path, **changes: Any) -> None:
    """A manifest that fits the files as they now are, so that only what is in them can tell that something is wrong."""
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    for name, entry in manifest["files"].items():
        entry |= {"size_bytes": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
    (path / MANIFEST).write_text(json.dumps(manifest))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: truncate(path / RANK_FILE),
    "zero length": lambda path: (path / RANK_FILE).write_bytes(b""),
    "flipped bit": lambda path: flip(path / RANK_FILE),
    "flipped bit in the buffers": lambda path: flip(path / "buffers.safetensors"),
    "missing rank file": lambda path: (path / RANK_FILE).unlink(),
    "missing state": lambda path: (path / "state.json").unlink(),
    "no manifest": lambda path: (path / MANIFEST).unlink(),
    "half a manifest": lambda path: truncate(path / MANIFEST),
    "empty manifest": lambda path: (path / MANIFEST).write_text(""),
    "manifest of another kind": lambda path: (path / MANIFEST).write_text('{"format": 1, "files": [1]}'),
    "manifest without files": lambda path: (path / MANIFEST).write_text('{"format": 1, "files": {}}'),
    "a file instead of a folder": lambda path: (shutil.rmtree(path), path.write_text("")),
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name.replace(" ", "_"))
def test_a_damaged_checkpoint_is_passed_over_loudly(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = put(tmp_path, 4, 12)
    assert newest_checkpoint(tmp_path, COMM) == newest
    DAMAGES[damage](newest)
    assert newest_checkpoint(tmp_path, COMM) == older
    told = [record.message for record in caplog.records]
    assert len(told) == (0 if newest.is_file() else 1)  # a file of that name is no checkpoint at all
    assert all("step_00000012 is passed over" in text for text in told)


@pytest.mark.parametrize("text", [None, "", "garbage\0\xff", "step_00000099\n", "../../elsewhere\n"])
def test_what_the_pointer_says_does_not_matter(text: str | None, tmp_path: Path) -> None:
    _, newest = put(tmp_path, 4, 12)
    if text is not None:
        (tmp_path / "latest").write_text(text)
    for name in ("step_00000099.partial", "step_x", "step_7", ".probe-00000"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path, COMM) == newest


def test_only_broken_ones_stop_a_run_and_none_at_all_does_not(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere", COMM) is None
    assert newest_checkpoint(tmp_path, COMM) is None
    for path in put(tmp_path, 4, 12):
        flip(path / RANK_FILE)
    with pytest.raises(CheckpointError, match=r"2 checkpoint\(s\) and none is whole.*--fresh"):
        newest_checkpoint(tmp_path, COMM)


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    put(tmp_path, 100_000_000, 99_999_999)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_99999999", "step_100000000"]


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    older, newest = put(tmp_path, 4, 12)
    rewrite_manifest(newest, format=2, unheard_of=True)
    with pytest.raises(CheckpointError, match=r"step_00000012 has checkpoint format 2.*formats 1 to 1.*newer program"):
        newest_checkpoint(tmp_path, COMM)
    assert "format 2" in str(verify_checkpoint(newest, COMM))
    assert verify_checkpoint(older, COMM) is None


class Payload:
    """Unpickling it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (self.witness,)


def load_all(comm: Any, checkpoints: Path) -> tuple[list[float], list[str], list[str]]:
    """Losses after the kept checkpoint, what is restored, and how the others of the folder are refused."""
    from seed_dist.dist.checkpoint import load_checkpoint
    from seed_dist.train.state import TrainState
    from tests.toy_engine import toy_engine, toy_steps

    engine = toy_engine(comm)
    errors = []
    for path in list_checkpoints(checkpoints):
        assert verify_checkpoint(path, comm) is None, "the manifests fit: only the content is wrong"
        try:
            load_checkpoint(path, engine)
            errors.append("loaded")
        except CheckpointError as error:
            errors.append(str(error))
    state = load_checkpoint(GOLDEN / "step_00000004", engine)
    buffers = dict(engine.module.named_buffers())
    restored = [
        str(TrainState.from_dict(state)), str(engine.scalar_state()["adam_steps"]), str(buffers["seen"].tolist()),
        str(buffers["usage.steps"].item()),
    ]  # fmt: skip
    return toy_steps(engine, 4, 7), restored, errors


def test_a_checkpoint_of_format_1_is_gone_on_from_and_pickles_are_not_read(tmp_path: Path) -> None:
    """The kept checkpoint was written by the release before background saving."""
    witness = tmp_path / "executed"
    checkpoints = tmp_path / "checkpoints"
    pickled, other_state, empty, no_places = put(checkpoints, 1, 2, 3, 5)
    (pickled / RANK_FILE).write_bytes(pickle.dumps(Payload(witness)))
    (other_state / "state.json").write_bytes(pickle.dumps(Payload(witness)))
    (empty / "buffers.safetensors").write_bytes(b"")
    shutil.copy(no_places / "buffers.safetensors", no_places / RANK_FILE)
    for path in (pickled, other_state, empty, no_places):
        rewrite_manifest(path)
    for losses, restored, errors in values(world(load_all, 2, tmp_path, checkpoints)):
        assert losses == pytest.approx(json.loads((GOLDEN / "losses.json").read_text())["steps 4 to 6"], rel=1e-6)
        state = TrainState(step=4, samples=32, skipped=1, skipped_in_a_row=0)
        assert restored == [str(state), "[4, 4]", "[4, 4, 4]", "4"]
        assert len(errors) == 4
        assert all("holds a file of another kind" in error for error in errors), errors
    assert not witness.exists()
    pickle.loads(pickle.dumps(Payload(witness)))
    assert witness.exists(), "the payload would have shown"
