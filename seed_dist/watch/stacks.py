"""What a rank was doing: Python stacks of all its threads, written by itself even while C code holds the interpreter's
lock, and what the kernel knows of a process that cannot write any more.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A real-time signal that nobody else uses: SIGUSR1 asks to stop, SIGUSR2 is submitit's.
DUMP_SIGNAL = signal.SIGRTMIN + 5
_DUMP_PATIENCE_S = 1.0
_KERNEL_FILES = ("wchan", "syscall", "stack")  # the last is for root only


@contextmanager
def dumps_on_signal(path: Path) -> Iterator[None]:
    """While the block runs, this process writes its stacks to `path` on `DUMP_SIGNAL`, and before it dies of a
    segmentation fault, an abort or the like. `faulthandler` does that inside the signal handler, in C.
    """
    with path.open("wb") as file:
        path.chmod(0o600)
        faulthandler.enable(file)
        signal.signal(DUMP_SIGNAL, signal.SIG_IGN)  # what holds after the block: one that comes late must not kill
        faulthandler.register(DUMP_SIGNAL, file)
        try:
            yield
        finally:
            faulthandler.unregister(DUMP_SIGNAL)
            faulthandler.enable()


def request_dumps(paths: dict[int, Path]) -> dict[int, str]:
    """The stacks of living processes, by process id: what they wrote to the paths, or what the kernel says of them."""
    before = {pid: _size(path) for pid, path in paths.items()}
    stopped = {pid for pid in paths if state_of(pid) in ("T", "t")}
    for pid in paths.keys() - stopped:
        _signal(pid)
    deadline = time.monotonic() + _DUMP_PATIENCE_S
    asked = paths.keys() - stopped
    while time.monotonic() < deadline and any(_size(paths[pid]) <= before[pid] and is_alive(pid) for pid in asked):
        time.sleep(0.02)
    time.sleep(0.05)  # the others' last lines
    texts = {}
    for pid, path in paths.items():
        written = path.read_bytes()[before[pid] :].decode(errors="replace")
        texts[pid] = written or (describe(pid) if is_alive(pid) else "")
    return texts


def describe(pid: int) -> str:
    """State, memory and place in the kernel of each thread of a process that does not answer."""
    lines = [f"process {pid} did not write its stacks; the kernel says of it:"]
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda path: int(path.name)):
        lines.append(f"thread {task.name} ({_read(task / 'comm')}), state {state_of(pid, int(task.name))}")
        lines += [f"  {name}: {text}" for name in _KERNEL_FILES if (text := _read(task / name))]
    return "\n".join(lines) + "\n"


def state_of(pid: int, thread: int | None = None) -> str | None:
    """The kernel's letter for a process's state (R, S, D, T, Z, ...); None when it is gone."""
    found = stat_fields(Path(f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat"))
    return found[0] if found else None


def is_alive(pid: int) -> bool:
    return state_of(pid) not in (None, "Z", "X")


def stat_fields(path: Path) -> list[str]:
    """Fields of a /proc stat file from the state on; the name before it may hold blanks. [] when it is gone."""
    return _read(path).rpartition(")")[2].split()


def _signal(pid: int) -> None:
    try:
        os.kill(pid, DUMP_SIGNAL)
    except ProcessLookupError:
        return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
