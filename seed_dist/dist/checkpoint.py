"""Checkpoints that are complete or not there.

    checkpoints/step_00000400.partial/  being written; never loaded
    checkpoints/step_00000400/          complete:
        rank_00000.safetensors ...      fp32 masters and Adam moments: each rank's pieces, by parameter name and offset
        buffers.safetensors             the module's persistent buffers (codebook statistics among them), from rank 0
        state.json                      position, counters, loss scale
        manifest.json                   size and SHA-256 of every file above; written last
    checkpoints/latest                  name of the newest, for people and scripts; loading looks at the folders

Order of a save: all ranks write and flush their files, all learn whether everybody could, rank 0 writes the manifest,
renames the folder, moves the pointer, removes old ones. So a crash at any moment leaves the previous checkpoint in
force. Pieces carry their offsets, so any number of ranks can load what any other number wrote. Random numbers need no
place here: every step seeds itself from its number (`seed_dist.train.state`). Frozen parameters are not stored. There
is no pickle.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from seed_dist.dist.comm import Comm, on_main
from seed_dist.dist.engine import MOMENTS, Engine, Fragment
from seed_dist.errors import CheckpointError
from seed_dist.faults import fault_point
from seed_dist.fsio import PARTIAL_SUFFIX, fsync_folder, sha256_bytes, sha256_file, write_json, write_text

FORMAT = 1
MANIFEST, STATE, BUFFERS, LATEST = "manifest.json", "state.json", "buffers.safetensors", "latest"
_PREFIX = "step_"
_LOG = logging.getLogger("seed_dist")

FileEntry = dict[str, Any]


def save_checkpoint(checkpoints: Path, engine: Engine, state: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of `state["step"]` and keep the newest `keep`; the value is its folder.

    Raises CheckpointError on all ranks when any rank could not write (a full disk, say); earlier checkpoints stay.
    """
    comm, step = engine.comm, int(state["step"])
    final = checkpoints / f"{_PREFIX}{step:08d}"
    partial = final.with_name(final.name + PARTIAL_SUFFIX)
    on_main(comm, lambda: _make_empty(partial))  # raises on all ranks alike, as every step below
    fault_point("checkpoint.begun", comm.rank, step)
    try:
        entries = _on_all_ranks(comm, lambda: _write_rank_files(partial, engine, state), f"checkpoint {final.name}")
    except CheckpointError:
        on_main(comm, lambda: shutil.rmtree(partial, ignore_errors=True))  # half of it may have filled the disk
        raise
    fault_point("checkpoint.files_written", comm.rank, step)
    files = {name: entry for part in entries for name, entry in part.items()}

    def commit() -> None:
        write_json(partial / MANIFEST, {"format": FORMAT, "step": step, "world_size": comm.size, "files": files})
        fault_point("checkpoint.manifest_written", comm.rank, step)
        if final.exists():  # from an earlier attempt and found broken, or this step would not be saved again
            shutil.rmtree(final)
        os.replace(partial, final)
        fsync_folder(checkpoints)
        fault_point("checkpoint.renamed", comm.rank, step)
        write_text(checkpoints / LATEST, final.name + "\n")
        _prune(checkpoints, keep, step)

    on_main(comm, commit)
    return final


def newest_checkpoint(
    checkpoints: Path, comm: Comm, is_wanted: Callable[[int], bool] = lambda step: True
) -> Path | None:
    """The newest checkpoint of a wanted step whose every byte is as written; None when none was ever finished.

    Broken ones are reported and passed over. Raises CheckpointError when there are checkpoints and all are broken:
    going on from nothing would look like success.
    """
    found: list[Path] = comm.broadcast_object(list_checkpoints(checkpoints))
    candidates = [path for path in found if is_wanted(step_of(path))]
    for path in reversed(candidates):
        problem = verify_checkpoint(path, comm)
        if problem is None:
            return path
        if comm.rank == 0:
            _LOG.warning("checkpoint %s is passed over: %s", path, problem)
    if candidates:
        raise CheckpointError(
            f"{checkpoints} holds {len(candidates)} checkpoint(s) and none is whole (see above). Restore one, "
            "or start again from nothing with --fresh, which keeps the old run directory under another name."
        )
    return None


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Finished checkpoints, oldest first; whether they are whole is not looked at."""
    if not checkpoints.is_dir():
        return []
    return sorted(
        path for path in checkpoints.glob(f"{_PREFIX}*") if path.is_dir() and not path.name.endswith(PARTIAL_SUFFIX)
    )


def step_of(checkpoint: Path) -> int:
    """Steps done at a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def verify_checkpoint(path: Path, comm: Comm) -> str | None:
    """What is wrong with a checkpoint, or None. The ranks share the reading and all get the same answer."""
    try:
        manifest = _read_manifest(path)
        mine = sorted(manifest["files"].items())[comm.rank :: comm.size]
        problem = next(filter(None, (_file_problem(path / name, entry) for name, entry in mine)), None)
    except CheckpointError as error:
        problem = str(error)
    return next(filter(None, comm.gather_objects(problem)), None)


def load_checkpoint(path: Path, engine: Engine, weights_only: bool = False) -> dict[str, Any]:
    """Fill the engine from a verified checkpoint, written by any number of ranks; the value is the saved `state`.

    With `weights_only` the optimizer starts anew and buffers stay as they are. Raises CheckpointError when parameters
    differ.
    """
    state = json.loads((path / STATE).read_text())
    files = [path / name for name in _read_manifest(path)["files"] if name.startswith("rank_")]
    with ExitStack() as stack:
        pieces = _Pieces([stack.enter_context(safe_open(file, framework="pt")) for file in sorted(files)])
        pieces.check_names({name for name, value in engine.module.named_parameters() if value.requires_grad}, path)
        for fragment in engine.fragments():
            pieces.fill(fragment, ("master",) if weights_only else ("master", *MOMENTS), path)
    engine.publish_masters()
    if not weights_only:
        _load_buffers(engine.module, load_file(path / BUFFERS), path)
        engine.load_scalar_state(state["engine"])
    return state


def _write_rank_files(folder: Path, engine: Engine, state: dict[str, Any]) -> dict[str, FileEntry]:
    """This rank's files, flushed to disk, with their entries for the manifest."""
    tensors: dict[str, Tensor] = {}
    places: dict[str, dict[str, Any]] = {}
    for fragment in engine.fragments():
        places[fragment.name] = {"start": fragment.start, "shape": fragment.shape}
        for kind in ("master", *MOMENTS):
            tensors[f"{kind}/{fragment.name}"] = getattr(fragment, kind).detach().cpu()
    files = {f"rank_{engine.comm.rank:05d}.safetensors": save(tensors, {"places": json.dumps(places)})}
    if engine.comm.rank == 0:
        files[BUFFERS] = save({name: tensor.detach().cpu().contiguous() for name, tensor in _buffers(engine.module)})
        document = state | {"engine": engine.scalar_state()}
        files[STATE] = json.dumps(document, indent=2, sort_keys=True).encode()
    for name, content in files.items():
        _write_flushed(folder / name, content)
        fault_point("checkpoint.file_written", engine.comm.rank, int(state["step"]))
    return {name: {"size_bytes": len(content), "sha256": sha256_bytes(content)} for name, content in files.items()}


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _on_all_ranks(comm: Comm, action: Callable[[], dict[str, FileEntry]], what: str) -> list[dict[str, FileEntry]]:
    """Every rank acts, then all know how everybody fared: nobody waits at a barrier for a rank whose disk is full."""
    value, problem = {}, None
    try:
        value = action()
    except (OSError, SafetensorError) as error:
        problem = f"rank {comm.rank}: {error}"
    outcomes = comm.gather_objects((value, problem))
    problems = [found for _, found in outcomes if found]
    if problems:
        raise CheckpointError(f"{what} could not be written; {'; '.join(problems)}. Earlier checkpoints are intact.")
    return [entry for entry, _ in outcomes]


def _prune(checkpoints: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` finished checkpoints, and what crashed saves left behind.

    A folder is renamed before it is emptied, so that no crash leaves half a checkpoint under a finished one's name.
    """
    for path in list_checkpoints(checkpoints)[:-keep]:
        os.replace(path, path.with_name(path.name + PARTIAL_SUFFIX))
        fault_point("checkpoint.pruning", 0, step)
    for path in checkpoints.glob(f"{_PREFIX}*{PARTIAL_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        found = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is missing or damaged ({error})") from error
    if found[0] != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {found[0]}, and this program reads format {FORMAT}")
    return manifest


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


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Persistent buffers: what `state_dict` has besides parameters."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return ((name, value) for name, value in module.state_dict().items() if name not in parameters)


def _load_buffers(module: nn.Module, saved: dict[str, Tensor], path: Path) -> None:
    own = dict(_buffers(module))
    if own.keys() != saved.keys():
        raise CheckpointError(
            f"{path / BUFFERS} does not fit: {sorted(own.keys() ^ saved.keys())} are only on one side"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


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
            for name, place in json.loads(file.metadata()["places"]).items():
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
