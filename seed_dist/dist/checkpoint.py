"""Checkpoints that are complete or not there: what is in them, which one is whole, and how it is loaded.

    checkpoints/step_00000400.partial/  being written, or left by a crash; never loaded
    checkpoints/step_00000400/          complete:
        rank_00000.safetensors ...      fp32 masters and Adam moments: each rank's pieces, by parameter name and offset
        buffers.safetensors             the module's persistent buffers (codebook statistics among them), from rank 0
        state.json                      position, counters, loss scale; a reader passes over what it does not know
        manifest.json                   format, size and SHA-256 of every file above; written last
    checkpoints/latest                  name of the newest, for people and scripts; loading looks at the folders

`checkpoint_saver` writes them. Pieces carry their offsets, so any number of ranks can load what any other number wrote.
Random numbers need no place here: every step seeds itself from its number (`seed_dist.train.state`). Frozen parameters
are not stored. There is no pickle, and none is read.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from seed_dist.dist.comm import Comm, on_main
from seed_dist.dist.engine import MOMENTS, Engine, Fragment
from seed_dist.errors import CheckpointError
from seed_dist.fsio import PARTIAL_SUFFIX, sha256_file

FORMAT = 1  # of what is written; all from 1 on are read
MANIFEST, STATE, BUFFERS, LATEST = "manifest.json", "state.json", "buffers.safetensors", "latest"
KINDS = ("master", *MOMENTS)
_NAME = re.compile(r"step_(\d{8,})")
_LOG = logging.getLogger("seed_dist")

FileEntry = dict[str, Any]  # size_bytes, sha256


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def step_of(path: Path) -> int | None:
    """The step in the name of a finished checkpoint; None for anything else."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def partial_of(path: Path) -> Path:
    """Where a checkpoint lies before it is complete."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Finished checkpoints, oldest first; whether they are whole is not looked at."""
    if not checkpoints.is_dir():
        return []
    steps = {path: step for path in checkpoints.iterdir() if (step := step_of(path)) is not None and path.is_dir()}
    return sorted(steps, key=lambda path: steps[path])


def newest_checkpoint(
    checkpoints: Path, comm: Comm, is_wanted: Callable[[int], bool] = lambda step: True
) -> Path | None:
    """The newest checkpoint of a wanted step whose every byte is as written; None when none was ever finished.

    Broken ones are reported and passed over. Raises CheckpointError when there are checkpoints and all are broken:
    going on from nothing would look like success. And when one has a newer format than this program knows: an older one
    beside it would throw away what a newer program has learnt.
    """
    found = on_main(comm, lambda: _none_newer_than_us(list_checkpoints(checkpoints)))
    candidates = [path for path in found if is_wanted(step_of(path) or 0)]
    for path in reversed(candidates):
        problem = verify_checkpoint(path, comm)
        if problem is None:
            return path
        if comm.rank == 0:
            _LOG.warning("checkpoint %s is passed over: %s", path, problem)
    if candidates and len(candidates) == len(found):
        raise CheckpointError(
            f"{checkpoints} holds {len(candidates)} checkpoint(s) and none is whole (see above). Restore one, "
            "or start again from nothing with --fresh, which keeps the old run directory under another name."
        )
    return None


def verify_checkpoint(path: Path, comm: Comm) -> str | None:
    """What is wrong with a checkpoint, or None. The ranks share the reading and all get the same answer."""
    try:
        files = sorted(read_manifest(path)["files"].items())
        problem = next(filter(None, (_file_problem(path / name, entry) for name, entry in files[comm.rank :: comm.size])), None)
    except CheckpointError as error:
        problem = str(error)
    return next(filter(None, comm.gather_objects(problem)), None)


def has_all_files(path: Path) -> bool:
    """Whether a checkpoint's files are there and of the right size: all that can be known without reading them."""
    try:
        return all((path / name).stat().st_size == entry["size_bytes"] for name, entry in read_manifest(path)["files"].items())
    except (CheckpointError, OSError):
        return False


def size_on_disk(path: Path) -> int:
    """Bytes of all files of a checkpoint, whole or not."""
    return sum(file.stat().st_size for file in path.iterdir())


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest; CheckpointError when it is missing, damaged or of a format that is not known here."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        found, files = manifest["format"], manifest["files"]
        sizes = [(entry["size_bytes"], entry["sha256"]) for entry in files.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is missing or damaged ({error})") from error
    if not isinstance(found, int) or not 1 <= found <= FORMAT or not sizes:
        raise CheckpointError(f"{path} has checkpoint format {found}, and this program reads formats 1 to {FORMAT}")
    return manifest


@contextmanager
def being_read(path: Path) -> Iterator[None]:
    """While the block runs nobody prunes this checkpoint, not even the run that it belongs to."""
    try:
        file = (path / MANIFEST).open("rb")
    except OSError as error:
        raise CheckpointError(f"{path} has gone or cannot be read ({error.strerror})") from error
    with file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


def load_checkpoint(path: Path, engine: Engine, weights_only: bool = False) -> dict[str, Any]:
    """Fill the engine from a verified checkpoint, written by any number of ranks; the value is the saved `state`.

    With `weights_only` the optimizer starts anew and buffers stay as they are. Raises CheckpointError when parameters
    differ, and for a file that is no safetensors file.
    """
    try:
        with being_read(path):
            return _load(path, engine, weights_only)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds a file of another kind than a checkpoint's ({error})") from error


def _load(path: Path, engine: Engine, weights_only: bool) -> dict[str, Any]:
    state = json.loads((path / STATE).read_text())
    files = [path / name for name in read_manifest(path)["files"] if name.startswith("rank_")]
    with ExitStack() as stack:
        pieces = _Pieces([stack.enter_context(safe_open(file, framework="pt")) for file in sorted(files)])
        pieces.check_names({name for name, value in engine.module.named_parameters() if value.requires_grad}, path)
        for fragment in engine.fragments():
            pieces.fill(fragment, ("master",) if weights_only else KINDS, path)
    engine.publish_masters()
    if not weights_only:
        _load_buffers(engine.module, load_file(path / BUFFERS), path)
        engine.load_scalar_state(state["engine"])
    return state


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` has besides parameters."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: value for name, value in module.state_dict().items() if name not in parameters}


def _load_buffers(module: nn.Module, saved: dict[str, Tensor], path: Path) -> None:
    own = persistent_buffers(module)
    if own.keys() != saved.keys():
        raise CheckpointError(
            f"{path / BUFFERS} does not fit: {sorted(own.keys() ^ saved.keys())} are only on one side"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _none_newer_than_us(candidates: list[Path]) -> list[Path]:
    for path in candidates:
        with suppress(OSError, ValueError, KeyError, TypeError):  # the damaged are dealt with one by one
            found = json.loads((path / MANIFEST).read_text())["format"]
            if isinstance(found, int) and found > FORMAT:
                raise CheckpointError(
                    f"{path} has checkpoint format {found}, and this program reads formats 1 to {FORMAT}. Go on with "
                    "the newer program that wrote it, or start again with --fresh, which keeps the old run directory."
                )
    return candidates


def _file_problem(path: Path, entry: FileEntry) -> str | None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != entry["size_bytes"]:
            return f"{path.name} has {size_bytes} bytes instead of {entry['size_bytes']}"
        if sha256_file(path) != entry["sha256"]:
            return f"{path.name} has been changed or damaged (its checksum differs)"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


@dataclass(frozen=True)
class _Piece:
    """One rank file's part of one flattened parameter."""

    file: Any
    start: int
    shape: tuple[int, ...]


class _Pieces:
    """All rank files of a checkpoint, seen as flattened parameters by name."""

    def __init__(self, files: list[Any]) -> None:
        self._by_name: dict[str, list[_Piece]] = {}
        for file in files:
            for name, place in json.loads((file.metadata() or {})["places"]).items():
                self._by_name.setdefault(name, []).append(_Piece(file, place["start"], tuple(place["shape"])))

    def check_names(self, names: set[str], path: Path) -> None:
        different = sorted(names ^ self._by_name.keys())
        if different:
            raise CheckpointError(
                f"{path} is a checkpoint of another model: parameters {different[:5]} ({len(different)} in all) are "
                "only on one side. Use the recipe that it was made with."
            )

    def fill(self, fragment: Fragment, kinds: tuple[str, ...], path: Path) -> None:
        """Copy what the files hold of this fragment into it."""
        filled, stop = 0, fragment.start + fragment.master.numel()
        for piece in self._by_name[fragment.name]:
            if piece.shape != fragment.shape:
                raise CheckpointError(
                    f"{path}: parameter {fragment.name} has shape {list(piece.shape)}, "
                    f"but {list(fragment.shape)} is needed. Use the recipe that the checkpoint was made with."
                )
            stored = piece.file.get_slice(f"master/{fragment.name}").get_shape()[0]
            first, last = max(fragment.start, piece.start), min(stop, piece.start + stored)
            if first >= last:
                continue
            for kind in kinds:
                part = piece.file.get_slice(f"{kind}/{fragment.name}")[first - piece.start : last - piece.start]
                getattr(fragment, kind)[first - fragment.start : last - fragment.start] = part
            filled += last - first
        if filled != fragment.master.numel():
            raise CheckpointError(f"{path}: parameter {fragment.name} is incomplete; another rank's file is missing")
