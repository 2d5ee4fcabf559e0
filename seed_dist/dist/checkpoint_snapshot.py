"""What a rank saves, copied into host memory that every save uses again: the copy is all that training waits for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seed_dist.dist.checkpoint import BUFFERS, KINDS, STATE, FileEntry, persistent_buffers
from seed_dist.dist.engine import Engine

_CHUNK_BYTES = 4 << 20
# safetensors' names, https://github.com/huggingface/safetensors#format
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class HostFile:
    """A safetensors file in memory: its header, and the place of every tensor, for tensors of fixed shapes and dtypes.

    The library's `save` would make two more copies of everything, and hold the interpreter's lock meanwhile.
    """

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, str], pinned: bool) -> None:
        # Wide types first, so that every tensor is aligned without gaps, which the format does not allow.
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        begin, places = 0, {}
        for name in names:
            tensor, end = tensors[name], begin + tensors[name].nbytes
            header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
            places[name], begin = (begin, end), end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        # Zeroed, so that the pages are there before the first save.
        self._memory = torch.empty(begin, dtype=torch.uint8, pin_memory=pinned).zero_()
        self._views = {
            name: self._memory[slice(*place)].view(tensors[name].dtype).view(tensors[name].shape)
            for name, place in places.items()
        }

    @property
    def size_bytes(self) -> int:
        return len(self._header) + len(self._memory)

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Start copying; on a GPU it is done when the current stream is."""
        for name, view in self._views.items():
            view.copy_(tensors[name].detach(), non_blocking=True)

    def chunks(self) -> list[memoryview]:
        content = self._memory.numpy().data
        return [memoryview(self._header), *(content[i : i + _CHUNK_BYTES] for i in range(0, len(content), _CHUNK_BYTES))]


class Snapshot:
    """This rank's files: its pieces of masters and moments, and from rank 0 the module's buffers and the state."""

    def __init__(self, engine: Engine) -> None:
        self._engine, pinned = engine, engine.comm.device.type == "cuda"
        places = {part.name: {"start": part.start, "shape": part.shape} for part in engine.fragments()}
        self._pieces = HostFile(_pieces(engine), {"places": json.dumps(places)}, pinned)
        self._files = {f"rank_{engine.comm.rank:05d}.safetensors": self._pieces}
        self._buffers = HostFile(persistent_buffers(engine.module), {}, pinned) if engine.comm.rank == 0 else None
        if self._buffers is not None:
            self._files[BUFFERS] = self._buffers
        self._state = b""

    @property
    def size_bytes(self) -> int:
        """Of this rank's files without the state, which is small."""
        return sum(file.size_bytes for file in self._files.values())

    def take(self, state: dict[str, Any]) -> None:
        """Copy everything; returns when training may change it."""
        engine = self._engine
        self._pieces.fill(_pieces(engine))
        if self._buffers is not None:
            self._buffers.fill(persistent_buffers(engine.module))
            document = state | {"engine": engine.scalar_state()}
            self._state = json.dumps(document, indent=2, sort_keys=True).encode()
        if engine.comm.device.type == "cuda":
            torch.cuda.current_stream(engine.comm.device).synchronize()

    def write(self, folder: Path, begun: Callable[[], None], written: Callable[[], None]) -> dict[str, FileEntry]:
        """Write and flush the files; the value is their entries for the manifest. The digests are of what was in
        memory, not of what comes back from the disk. `begun` is called in the middle of each file, `written` after it.
        """
        contents = {name: file.chunks() for name, file in self._files.items()}
        if self._state:
            contents[STATE] = [memoryview(self._state)]
        entries = {}
        for name, chunks in contents.items():
            entries[name] = _write_flushed(folder / name, chunks, begun)
            written()
        return entries


def _pieces(engine: Engine) -> dict[str, Tensor]:
    return {f"{kind}/{part.name}": getattr(part, kind) for part in engine.fragments() for kind in KINDS}


def _write_flushed(path: Path, chunks: list[memoryview], begun: Callable[[], None]) -> FileEntry:
    """Neither writing nor hashing a chunk of this size holds the interpreter's lock."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for number, chunk in enumerate(chunks):
            digest.update(chunk)
            while chunk:
                chunk = chunk[file.write(chunk) :]
            if number == 0:
                begun()
        os.fsync(file.fileno())
        return {"size_bytes": file.tell(), "sha256": digest.hexdigest()}
