"""The folder that a run's checkpoints lie in: whether it can hold them, looked at before the first step, and which of
them stay there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seed_dist.dist.checkpoint import (
    LATEST,
    MANIFEST,
    checkpoint_name,
    has_all_files,
    list_checkpoints,
    partial_of,
    size_on_disk,
    step_of,
    verify_checkpoint,
)
from seed_dist.dist.comm import Comm, LocalComm, on_main
from seed_dist.errors import CheckpointError
from seed_dist.faults import fault_point
from seed_dist.fsio import PARTIAL_SUFFIX, fsync_folder, write_text

_LOG = logging.getLogger("seed_dist")


def prepare_folder(checkpoints: Path, comm: Comm) -> None:
    """Make the folder, remove what crashed saves left in it, and see that every rank can write there and that rank 0
    sees what they write.

    Raises CheckpointError on all ranks: now, and not when the first checkpoint is due.
    """
    on_main(comm, lambda: _make(checkpoints))
    probe, problem = _probe(checkpoints, comm.rank), None
    try:
        with probe.open("wb") as file:
            file.write(b"seed-dist\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        problem = f"rank {comm.rank} on {socket.gethostname()}: {error.strerror}"
    problems = [found for found in comm.gather_objects(problem) if found]
    unseen = [rank for rank in range(comm.size) if comm.rank == 0 and not _probe(checkpoints, rank).exists()]
    unseen = comm.broadcast_object(unseen)
    with suppress(OSError):
        probe.unlink()
    if problems:
        raise CheckpointError(
            f"checkpoints cannot be written to {checkpoints}: {'; '.join(problems)}. Make it a folder that all ranks "
            "can write to, or choose another --work."
        )
    if unseen:
        raise CheckpointError(
            f"rank 0 does not see what ranks {unseen} write to {checkpoints}: it is another disk there. --work must be "
            "on one that all nodes share."
        )


def check_room(checkpoints: Path, comm: Comm, own_bytes: int, keep: int, permanent: int) -> None:
    """See that the disk can hold `keep` checkpoints and the next one, of which this rank writes `own_bytes`.

    Raises CheckpointError on all ranks when it cannot; warns when `permanent` more do not fit in the long run. A quota
    is only seen where the file system counts it as free space.
    """
    size_bytes = sum(comm.gather_objects(own_bytes))

    def check() -> None:
        disk = shutil.disk_usage(checkpoints)
        held_bytes = sum(size_on_disk(path) for path in list_checkpoints(checkpoints)[-keep:])
        needed_bytes = max(size_bytes, (keep + 1) * size_bytes - held_bytes)
        sizes = f"{checkpoints} has {_gb(disk.free)} free, and a checkpoint takes {_gb(size_bytes)}"
        if disk.total and disk.free < needed_bytes:  # some network file systems count nothing
            raise CheckpointError(
                f"{sizes}: {keep} kept and the next one need {_gb(needed_bytes)} more. Free some, lower "
                "keep_checkpoints (at least 2), or choose another --work."
            )
        if disk.total and disk.free < needed_bytes + permanent * size_bytes:
            _LOG.warning(
                "%s: enough now, but the %d permanent ones still to come need %s. Raise permanent_every or free some.",
                sizes, permanent, _gb(permanent * size_bytes),
            )  # fmt: skip

    on_main(comm, check)


@dataclass
class Retention:
    """Which checkpoints stay: the newest `keep` whole ones, and those of every `permanent_every`-th step (0: none).

    `whole`: names of those whose bytes have been compared with their checksums, or were written by this process. Others
    are read once before they count, so what is broken never counts as kept and the last good one never goes. Broken ones
    stay until `keep` newer ones are whole. For rank 0 only; no collective is used.
    """

    checkpoints: Path
    keep: int
    permanent_every: int = 0
    whole: set[str] = field(default_factory=set)

    def prune(self, step: int) -> None:
        """Remove what need not stay, and what was left behind. A folder is renamed before it is emptied, so that no
        crash leaves half a checkpoint under a finished one's name.
        """
        kept = 0
        for path in reversed(list_checkpoints(self.checkpoints)):
            if kept < self.keep:
                kept += self._is_whole(path)
            elif not self._is_permanent(path) and _set_aside(path):
                fault_point("checkpoint.pruning", 0, step)
        remove_partials(self.checkpoints)

    def leave_behind(self, step: int) -> None:
        """Training has gone back behind the checkpoints of later steps: they must not pass for the newest. Only while
        none is being written.
        """
        for path in list_checkpoints(self.checkpoints):
            if (step_of(path) or 0) > step:
                _set_aside(path)
        write_text(self.checkpoints / LATEST, checkpoint_name(step) + "\n")
        remove_partials(self.checkpoints)

    def _is_whole(self, path: Path) -> bool:
        if not has_all_files(path):
            return False
        if path.name not in self.whole and verify_checkpoint(path, LocalComm()) is None:
            self.whole.add(path.name)
        return path.name in self.whole

    def _is_permanent(self, path: Path) -> bool:
        return bool(self.permanent_every) and (step_of(path) or 0) % self.permanent_every == 0


def remove_partials(checkpoints: Path) -> None:
    """Remove everything that is no finished checkpoint; only while none is being written."""
    for path in checkpoints.glob(f"step_*{PARTIAL_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> bool:
    """Give a checkpoint a partial one's name, unless somebody is reading it."""
    try:
        with (path / MANIFEST).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(path, partial_of(path))
    except BlockingIOError:
        return False
    except OSError:  # no manifest, or no locks on this file system
        os.replace(path, partial_of(path))
    return True


def _make(checkpoints: Path) -> None:
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        remove_partials(checkpoints)
        fsync_folder(checkpoints.parent)
    except OSError as error:
        raise CheckpointError(
            f"{checkpoints} cannot be made a folder for checkpoints: {error.strerror}. If it is a link or a mount, see "
            "that what it leads to is there."
        ) from error


def _probe(checkpoints: Path, rank: int) -> Path:
    return checkpoints / f".probe-{rank:05d}"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g} GB"
