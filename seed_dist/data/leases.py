"""Which of many processes works on which piece: leases that a living process renews and that a dead one loses.

    FOLDER/shard-000007.0    process 4711 on node3 has the shard; the time of the file is its last heartbeat
    FOLDER/shard-000007.1    it fell silent, and another process took over

A lease is a file that only one process can create. It is never removed: giving it back sets its time to 0, and whoever
comes next creates the file of the next number, which again only one can. So a takeover cannot be won twice, and a
process that was stopped and wakes up sees the higher number and knows that its lease is lost.

What a lease cannot do is stop a process between its last look at `is_held` and its next write. Pieces must therefore
be written under a name of their own and renamed; `was_taken_over` names those that may have been written twice.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from seed_dist.fsio import create_once

STALE_AFTER_S = 60.0
_BEATS = 6  # heartbeats in the time after which an owner counts as dead
_GIVEN_BACK = (0, 0)  # access and modification time of a lease that nobody has any more


@dataclass(frozen=True)
class Owner:
    """A process, such that one on the same machine can tell whether it is alive.

    `system` joins boot id and process namespace: process numbers mean something only where both are equal; empty where
    the system does not tell. `started` is in clock ticks since boot, because numbers of processes are used again.
    """

    host: str
    process: int
    system: str
    started: str
    since: float  # seconds since 1970

    @classmethod
    def myself(cls) -> Owner:
        started = _process_state(os.getpid())[1]
        return cls(socket.gethostname(), os.getpid(), _system(), started, time.time())

    def is_known_dead(self) -> bool:
        """Whether the process is certainly gone. Of another machine's nothing is certain but its silence."""
        if not self.system or self.system != _system():
            return False
        state, started = _process_state(self.process)
        return state in ("", "Z", "X") or started != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass(frozen=True)
class Holding:
    """Who has a piece; `silent_s` seconds have gone by since the last heartbeat."""

    name: str
    owner: Owner
    silent_s: float
    is_stale: bool


class LeaseLostError(RuntimeError):
    """Another process has taken the piece over, or the work is finished: what was made of it must not be kept."""


class Lease:
    """A piece of work that this process has until the `with` block ends. A thread renews it meanwhile."""

    def __init__(self, path: Path, following: Path, beat_s: float) -> None:
        self._path, self._following = path, following
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat_s,), name="heartbeat", daemon=True)
        self._thread.start()

    def is_held(self) -> bool:
        """False once another process has taken over, or the folder of the leases is gone. Ask before every rename."""
        return self._path.exists() and not self._following.exists()

    def require_held(self) -> None:
        """LeaseLostError where `is_held` is not so."""
        if not self.is_held():
            raise LeaseLostError(self._path.name)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the piece back; the end of the `with` block does it."""
        self._ended.set()
        self._thread.join()
        _touch(self._path, _GIVEN_BACK)

    def _beat(self, beat_s: float) -> None:
        while not self._ended.wait(beat_s):
            _touch(self._path)


class Leases:
    """The leases of one piece of joint work, in a folder that exists and that all its processes see.

    An owner that has been silent for `stale_after_s` counts as dead; one on the same machine whose process is gone
    does so at once. Times are those of the file system, so the clocks of the machines need not agree.
    """

    def __init__(self, folder: Path, stale_after_s: float = STALE_AFTER_S) -> None:
        self._folder, self._stale_after_s = folder, stale_after_s
        self._clock = folder / f".clock-{secrets.token_hex(4)}"

    def open_folder(self) -> None:
        """Make the folder where it is missing: before any claim, and for a new work after an earlier one."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def require_folder(self) -> None:
        """FileNotFoundError where the folder has been removed, after which nothing can be claimed."""
        self._folder.stat()

    def claim(self, name: str) -> Lease | None:
        """A lease of the piece `name`; None while a living process has it, or when the folder has been removed.

        Look only afterwards whether the piece is finished: its last owner may just have given it back.
        """
        number = self._last(name) + 1
        if number and not self._is_free(self._path(name, number - 1)):
            return None
        content = json.dumps(asdict(Owner.myself())).encode()
        try:
            created = create_once(self._path(name, number), content)
        except FileNotFoundError:
            return None
        if not created:
            return None
        return Lease(self._path(name, number), self._path(name, number + 1), self._stale_after_s / _BEATS)

    def is_taken(self, name: str) -> bool:
        """Whether a living process has the piece now; it may change at any time."""
        number = self._last(name)
        return number >= 0 and not self._is_free(self._path(name, number))

    def was_taken_over(self, name: str) -> bool:
        """Whether more than one process has had the piece."""
        return self._last(name) > 0

    def owners(self) -> list[Holding]:
        """Pieces that somebody has, by name; for people to read."""
        names = {path.stem for path in self._folder.glob("*.*") if path.suffix[1:].isdecimal()}
        holdings = (self._holding(name) for name in sorted(names))
        return [holding for holding in holdings if holding is not None]

    def _holding(self, name: str) -> Holding | None:
        path = self._path(name, self._last(name))
        heartbeat = _heartbeat(path)
        owner = _owner(path)
        if not heartbeat or owner is None:
            return None
        return Holding(name, owner, max(0.0, self._now() - heartbeat), self._is_free(path))

    def _is_free(self, path: Path) -> bool:
        """Whether the last lease of a piece was given back, or its owner is dead."""
        heartbeat, owner = _heartbeat(path), _owner(path)
        if owner is None or not heartbeat or owner.is_known_dead():
            return True
        return self._now() - heartbeat > self._stale_after_s

    def _last(self, name: str) -> int:
        """The highest number that exists, -1 without any."""
        number = 0
        while self._path(name, number).exists():
            number += 1
        return number - 1

    def _path(self, name: str, number: int) -> Path:
        return self._folder / f"{name}.{number}"

    def _now(self) -> float:
        """What the file system holds for the time, on NFS the server's."""
        try:
            self._clock.touch()
            now = self._clock.stat().st_mtime
            self._clock.unlink()
        except FileNotFoundError:  # the folder has been removed, so there is nothing left to compare with
            return 0.0
        except PermissionError:  # somebody else's work, which this process only looks at
            return time.time()
        return now


def _touch(path: Path, times: tuple[int, int] | None = None) -> None:
    try:
        os.utime(path, times)
    except FileNotFoundError:
        return  # the work is finished and the folder removed


def _heartbeat(path: Path) -> float:
    """Time of a lease. Opened, because NFS answers a plain `stat` from a cache that may be a minute old."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def _system() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_state(process: int) -> tuple[str, str]:
    """State letter and start time of a process, empty where there is none (proc(5), /proc/PID/stat)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
