"""Saving while training goes on.

    boundary of step n      every rank copies what it saves into host memory (all that training waits for), and a thread
                            writes and flushes its files
    each later boundary     the loop's all-reduce carries whether any rank's thread has failed, or has not finished
    nobody is unfinished    names, sizes, checksums and problems are exchanged once; a thread of rank 0 commits: manifest,
                            rename, pointer, pruning. Where any rank had a problem it removes the partial folder instead
    nobody is unfinished    all know how it ended; a save that failed is written a second time from the same memory

No collective ever runs in a thread. A crash at any moment leaves the previous checkpoint in force: the folder has its
name only when every file and the manifest are on the disk. A rank that fails takes part in everything, so nobody waits
for it; a rank that hangs in a write keeps the save unfinished while training goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seed_dist.dist.checkpoint import FORMAT, LATEST, MANIFEST, FileEntry, checkpoint_name, partial_of
from seed_dist.dist.checkpoint_folder import Retention
from seed_dist.dist.checkpoint_snapshot import Snapshot
from seed_dist.dist.comm import on_main
from seed_dist.dist.engine import Engine
from seed_dist.faults import fault_point
from seed_dist.fsio import fsync_folder, write_json, write_text

_ATTEMPTS = 2
_POLL_S = 0.05
_LOG = logging.getLogger("seed_dist")


class Flags(NamedTuple):
    """What a rank says of its thread at a boundary; combined over ranks by logical or."""

    failed: bool
    unfinished: bool


@dataclass(frozen=True)
class SaveResult:
    """How one attempt at a checkpoint ended, equal on all ranks. `problem` is None when it is complete on the disk.

    `blocked_s`: how long the slowest rank's copy held training up; `written_s`: from then until the slowest rank's
    files were flushed; `size_bytes`: of all files.
    """

    step: int
    path: Path
    blocked_s: float
    written_s: float
    size_bytes: int
    problem: str | None = None
    is_retried: bool = False


class _Report(NamedTuple):
    """What one rank's thread did."""

    entries: dict[str, FileEntry]
    problem: str | None
    blocked_s: float
    written_s: float


class CheckpointSaver:
    """One run's saves, one at a time. All ranks call all methods but `leave` together, at step boundaries."""

    def __init__(self, engine: Engine, retention: Retention) -> None:
        """Takes host memory as large as this rank's part of masters and moments. `prepare_folder` has been called."""
        self.folder, self._retention = retention.checkpoints, retention
        self._comm, self._snapshot = engine.comm, Snapshot(engine)
        self._work: _Work | None = None  # of this rank; other ranks have none while rank 0 commits
        self._result: SaveResult | None = None  # there while rank 0 commits or removes
        self._step, self._attempt, self._blocked_s = 0, 0, 0.0
        self.is_busy = False
        self.last_problem: str | None = None  # of the attempt that ended last

    @property
    def own_bytes(self) -> int:
        """What this rank writes for one checkpoint."""
        return self._snapshot.size_bytes

    def begin(self, state: dict[str, Any]) -> None:
        """Copy, and start writing the checkpoint of `state["step"]`. None may be under way."""
        assert not self.is_busy, "a save is under way"
        began_s = time.monotonic()
        self._snapshot.take(state)
        self._step, self._attempt, self.is_busy = int(state["step"]), 1, True
        self._work = _Work(self._write)
        self._blocked_s = time.monotonic() - began_s

    def flags(self) -> Flags:
        """For the boundary's all-reduce. Raises what was no disk's fault: a defect must not pass for a full disk."""
        work = self._work
        if work is None:
            return Flags(failed=False, unfinished=False)
        is_done = work.is_done  # first: the error is set before it
        if work.error is not None and not isinstance(work.error, OSError):
            raise work.error
        return Flags(failed=is_done and work.error is not None, unfinished=not is_done)

    def settle(self, flags: Flags) -> SaveResult | None:
        """Move on, given all ranks' flags; a result when an attempt has ended."""
        if not self.is_busy or flags.unfinished:
            return None
        if self._result is None:
            self._result = self._finish_writing()
            return None
        return self._finish(flags.failed)

    def wait(self, timeout_s: float) -> list[SaveResult]:
        """Wait for the save under way; results of its attempts. It is still under way (`is_busy`) when any rank's
        thread needs more than `timeout_s`.
        """
        deadline_s, results, is_late = time.monotonic() + timeout_s, [], False
        while self.is_busy and not is_late:
            if self._work is not None:
                self._work.join(_POLL_S)  # the others meet the slowest rank in the all-reduce
            is_late, *flags = self._comm.any((time.monotonic() > deadline_s, *self.flags()))
            result = self.settle(Flags(*flags))
            results += [result] if result else []
        return results

    def go_back(self, step: int) -> None:
        """Training has gone back to the checkpoint of that step; no save may be under way."""
        assert not self.is_busy, "a save is under way"
        on_main(self._comm, lambda: self._retention.leave_behind(step))

    def leave(self, timeout_s: float) -> None:
        """On the way out after an error, when the other ranks may be gone: let a commit which all ranks have agreed on
        come to its end. No collective.
        """
        if self._work is not None and self._result is not None:
            self._work.join(timeout_s)

    @property
    def _final(self) -> Path:
        return self.folder / checkpoint_name(self._step)

    def _point(self, name: str) -> Callable[[], None]:
        return lambda: fault_point(f"checkpoint.{name}", self._comm.rank, self._step)

    def _write(self) -> dict[str, FileEntry]:
        """In the thread of every rank."""
        partial = partial_of(self._final)
        partial.mkdir(exist_ok=True)  # not its parents: a folder that has vanished is not made anew somewhere else
        self._point("begun")()
        entries = self._snapshot.write(partial, self._point("in_file"), self._point("file_written"))
        self._point("files_written")()
        return entries

    def _finish_writing(self) -> SaveResult:
        """All threads are done: who wrote what, and what rank 0 does about it."""
        work = self._work
        assert work is not None
        problem = f"rank {self._comm.rank}: {work.error}" if work.error else None
        reports = self._comm.gather_objects(_Report(work.value or {}, problem, self._blocked_s, work.seconds))
        files = {name: entry for report in reports for name, entry in report.entries.items()}
        problem = "; ".join(report.problem for report in reports if report.problem) or None
        self._work = None
        if self._comm.rank == 0:
            self._work = _Work(self._discard if problem else lambda: self._commit(files))
        return SaveResult(
            step=self._step,
            path=self._final,
            blocked_s=max(report.blocked_s for report in reports),
            written_s=max(report.written_s for report in reports),
            size_bytes=sum(entry["size_bytes"] for entry in files.values()),
            problem=problem,
        )

    def _commit(self, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        """In the thread of rank 0."""
        final, partial = self._final, partial_of(self._final)
        try:
            manifest = {"format": FORMAT, "step": self._step, "world_size": self._comm.size, "files": files}
            write_json(partial / MANIFEST, manifest)
            self._point("manifest_written")()
            if final.exists():  # found broken at the start, or training has gone back behind it
                os.replace(final, partial_of(final.with_name(f"{final.name}.replaced")))
            os.replace(partial, final)
        except OSError:
            self._discard()
            raise
        self._point("renamed")()
        self._retention.whole.add(final.name)
        try:
            fsync_folder(self.folder)
            write_text(self.folder / LATEST, final.name + "\n")
            self._retention.prune(self._step)
        except OSError as error:
            _LOG.warning("checkpoint %s is complete, but pointer or older ones could not be changed: %s", final, error)
        return files

    def _discard(self) -> dict[str, FileEntry]:
        shutil.rmtree(partial_of(self._final), ignore_errors=True)  # half of it may have filled the disk
        return {}

    def _finish(self, has_failed: bool) -> SaveResult:
        """Rank 0 is done: tell how it ended, and write once more what did not succeed."""
        result, work = self._result, self._work
        assert result is not None
        problem = result.problem
        if has_failed:  # only the commit can, so rank 0 knows why
            problem = self._comm.broadcast_object(f"rank 0: {work.error}" if work else "")
        self._result, self._work, self.last_problem = None, None, problem
        self.is_busy = problem is not None and self._attempt < _ATTEMPTS
        if problem is not None and self._comm.rank == 0:
            then = "It is tried once more" if self.is_busy else "Training goes on with earlier checkpoints"
            _LOG.warning("checkpoint %s could not be written: %s. %s.", result.path.name, problem, then)
        if self.is_busy:
            self._attempt += 1
            self._work = _Work(self._write)
        return dataclasses.replace(result, problem=problem, is_retried=self.is_busy)


class _Work:
    """One piece of work in a thread of its own, which does not keep the process alive when the disk never answers."""

    def __init__(self, action: Callable[[], dict[str, FileEntry]]) -> None:
        self.value: dict[str, FileEntry] | None = None
        self.error: Exception | None = None
        self.seconds, self.is_done, self._action = 0.0, False, action
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            self.value = self._action()
        except Exception as error:  # noqa: BLE001 - the main thread decides, see CheckpointSaver.flags
            self.error = error
        self.seconds, self.is_done = time.monotonic() - began_s, True
