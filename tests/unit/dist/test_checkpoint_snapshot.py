"""Files that a save writes from memory are what the safetensors library reads, and hold what is trained and no more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from seed_dist.dist.checkpoint_snapshot import _DTYPES, HostFile, _write_flushed
from seed_dist.dist.comm import Comm
from tests.forked import values, world


def test_the_library_reads_every_dtype_and_shape(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (), (0, 4), (2, 3, 5), (1,))
    tensors = {
        f"{number}.{dtype}": (torch.rand(shape, generator=generator) * 100).to(dtype)
        for dtype in _DTYPES
        for number, shape in enumerate(shapes)
    }
    tensors["large"] = torch.randn(3_000_000, generator=generator)  # in several pieces
    made = HostFile(tensors, {"places": "here"}, pinned=False)
    made.fill(tensors)
    entry = _write_flushed(tmp_path / "a.safetensors", made.chunks(), lambda: None)
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"places": "here"}
    content = (tmp_path / "a.safetensors").read_bytes()
    assert entry == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert len(content) == made.size_bytes


def test_memory_is_used_again_and_keeps_what_was_copied() -> None:
    tensor = {"a": torch.arange(5.0), "b": torch.arange(3)}
    made = HostFile(tensor, {}, pinned=False)
    made.fill(tensor)
    first = b"".join(made.chunks())
    address = made.chunks()[1].obj
    tensor["a"] += 1
    assert b"".join(made.chunks()) == first
    made.fill(tensor)
    assert b"".join(made.chunks()) != first
    assert made.chunks()[1].obj.__array_interface__["data"] == address.__array_interface__["data"]


def save_once(comm: Comm, folder: Path) -> list[str]:
    """Names of what is trained."""
    from tests.toy_engine import save_now, toy_engine, toy_saver

    engine = toy_engine(comm)
    save_now(toy_saver(folder, engine), 1)
    return [name for name, value in engine.module.named_parameters() if value.requires_grad]


@pytest.mark.multirank
def test_frozen_parameters_are_left_out_and_buffers_are_in(tmp_path: Path) -> None:
    trained, _ = values(world(save_once, 2, tmp_path, tmp_path / "c"))
    folder = tmp_path / "c" / "step_00000001"
    stored = {name for rank in range(2) for name in load_file(folder / f"rank_{rank:05d}.safetensors")}
    assert stored == {f"{kind}/{name}" for name in trained for kind in ("master", "exp_avg", "exp_avg_sq")}
    assert len(trained) == 8
    assert not any("frozen" in name for name in stored)
    buffers = load_file(folder / "buffers.safetensors")
    assert buffers.keys() == {"seen", "drift", "usage.window", "usage.idle", "usage.steps"}
