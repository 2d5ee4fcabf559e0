"""Files that are complete or not there: write under another name, flush, rename, flush the folder. Checksums. Locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seed_dist.errors import LockedError

PARTIAL_SUFFIX = ".partial"
_CHUNK_BYTES = 1 << 20


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only when the block ends well; on any error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        fsync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def create_once(path: Path, data: bytes) -> bool:
    """Make the file `path` with all its content unless there is one already; of several processes one gets True.

    By a hard link, which is atomic on local disks, NFS, Lustre and GPFS alike. FileNotFoundError where the folder is
    gone.
    """
    partial = _partial_of(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def _partial_of(path: Path) -> Path:
    """Unlike that of any other writer of the same file, on this machine or another."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder that appears under its name only when the block ends well; the block gets the partial folder."""
    partial = folder.with_name(f"{folder.name}{PARTIAL_SUFFIX}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    fsync_folder(partial)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    fsync_folder(folder.parent)


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the value's canonical JSON: short to read, long enough not to collide."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_bytes(canonical.encode())[:16]


@contextmanager
def folder_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Own `folder` until the block ends; the kernel frees the lock when its process dies, so none is ever stale.

    Raises LockedError naming the owner when another live process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "an unnamed process"
            raise LockedError(
                f"{folder} is in use by {owner}. Wait for it to end, or choose another folder for this one."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{purpose}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # a finished folder has the same bytes whoever made it
